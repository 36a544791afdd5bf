"""Which role each name has in a function of Python, asked of Python's own parser.

A name is the function's argument or its variable, an attribute or a method of something, the keyword of a call; or it
is known from outside: a module, a class, a function, or anything else (GLOBAL), as the file or Python's builtins define
it.
"""

import ast
import builtins
from collections.abc import Iterator
from io import StringIO
from tokenize import NAME, NUMBER, OP, STRING, generate_tokens

ROLES = ("ARGUMENT", "ATTRIBUTE", "CLASS", "FUNCTION", "GLOBAL", "KEYWORD", "METHOD", "MODULE", "VARIABLE")


def words(code: str) -> list[tuple[str, tuple[int, int]]]:
    """The names, numbers, strings and operators of a program, and where each begins, (line, column)."""
    tokens = generate_tokens(StringIO(code).readline)
    return [(token.string, token.start) for token in tokens if token.type in (NAME, NUMBER, OP, STRING)]


def roles(tree: ast.Module, known: dict[str, str]) -> Iterator[tuple[int, int, int, str]]:
    """(line, first column, end column, role) of each name in a function that `ast.unparse` has written.

    The tree tells where most names are. The others follow a keyword, in code of that style after one space.
    """
    nodes = list(ast.walk(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    stored -= {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}
    known = known | dict.fromkeys(stored, "VARIABLE") | dict.fromkeys(arguments, "ARGUMENT") | defined(nodes)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}

    def after(node: ast.AST, keyword: str, name: str, role: str) -> tuple[int, int, int, str]:
        start = node.col_offset + len(keyword) + 1
        return node.lineno, start, start + len(name), role

    def at_end(node: ast.AST, name: str, role: str) -> tuple[int, int, int, str]:
        return node.end_lineno, node.end_col_offset - len(name), node.end_col_offset, role

    for node in nodes:
        match node:
            case ast.Name(id=name):
                yield at_end(node, name, known.get(name) or builtin_role(name))
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                role = "ARGUMENT" if isinstance(node, ast.arg) else "KEYWORD"
                yield node.lineno, node.col_offset, node.col_offset + len(name), role
            case ast.Attribute(attr=name):
                yield at_end(node, name, "METHOD" if id(node) in called else "ATTRIBUTE")
            case ast.FunctionDef(name=name):
                yield after(node, "def", name, "FUNCTION")
            case ast.AsyncFunctionDef(name=name):
                yield after(node, "async def", name, "FUNCTION")
            case ast.ClassDef(name=name):
                yield after(node, "class", name, "CLASS")
            case ast.ExceptHandler(name=str(name)):
                start = node.type.end_col_offset + len(" as ")
                yield node.type.end_lineno, start, start + len(name), "VARIABLE"
            case ast.Import(names=names):
                for alias in names:
                    yield alias.lineno, alias.col_offset, alias.col_offset + len(alias.name), "MODULE"
                    yield at_end(alias, alias.asname or alias.name, "MODULE")
            case ast.ImportFrom(module=module, names=names, level=level):
                yield after(node, "from", "." * level + (module or ""), "MODULE")
                for alias in names:
                    yield alias.lineno, alias.col_offset, alias.col_offset + len(alias.name), "GLOBAL"
                    yield at_end(alias, alias.asname or alias.name, "GLOBAL")


def defined(nodes: list[ast.AST]) -> dict[str, str]:
    """What these statements define: name -> role."""
    found = {}
    for node in nodes:
        match node:
            case ast.Import(names=names):
                found |= {(alias.asname or alias.name).partition(".")[0]: "MODULE" for alias in names}
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name: "GLOBAL" for alias in names}
            case ast.ClassDef(name=name):
                found[name] = "CLASS"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found[name] = "FUNCTION"
    return found


def builtin_role(name: str) -> str:
    thing = getattr(builtins, name, None)
    return "CLASS" if isinstance(thing, type) else "FUNCTION" if callable(thing) else "GLOBAL"
