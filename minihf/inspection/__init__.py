"""For readers and for CI: is a model what the reference says it is, and where does it first differ?"""
