"""A name becomes tensors, and back: `hub` finds the files, `files` opens them, `ledger` tells what went where."""
