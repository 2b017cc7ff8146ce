"""How the site shows code: what is the lesson stands open, helpers and long tests are folded.

nbdev calls both functions for every cell (`procs` in settings.ini), in place of its own `add_fold`,
which would put the same fold on every exported cell.
"""
import ast
import re

LONG_TEST = 15          # lines: a longer cell of assertions is folded


def _definitions(source):
    "Names that a cell defines with `def` or `class`, at the top."
    try:
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))
    except SyntaxError:
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, kinds)]


def _fold(cell, summary):
    cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'


def fold(cell):
    "Fold exported cells that define helpers only, and long cells of assertions."
    if cell.cell_type != "code" or "code-fold" in cell.source: return
    if "exports" in cell.directives_:
        names = _definitions(cell.source)
        if names and all(n.startswith("_") for n in names):
            _fold(cell, f"Helper: {', '.join(names)}" if len(names) < 4 else "Helpers")
    elif cell.source.count("\n") >= LONG_TEST and re.search(r"^\s*(assert|test_\w+\()",
            cell.source, re.M):
        _fold(cell, "Tests")


def join_alt(cell):
    """A long alternative text stands on several lines: `fig-alt`, then `fig-alt-more`. Quarto
    wants one."""
    if cell.cell_type != "code" or "fig-alt-more" not in cell.source: return
    more = re.findall(r'^#\|\s*fig-alt-more:\s*"(.*)"\s*$', cell.source, re.M)
    source = re.sub(r'^#\|\s*fig-alt-more:.*\n', "", cell.source, flags=re.M)
    join = lambda m: f'{m[1]}{" ".join([m[2], *more])}"'
    cell.source = re.sub(r'^(#\|\s*fig-alt:\s*")(.*)"\s*$', join, source, count=1, flags=re.M)
