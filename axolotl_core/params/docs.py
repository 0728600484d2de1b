"""What the options are for: the docstrings below them."""

import ast
import inspect
import itertools

from axolotl_core.params.section import Section


def docstrings(kind: type[Section]) -> dict[str, str]:
    """Option → the text under it."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        option.target.id: " ".join(message.value.value.split())  # type: ignore[union-attr, attr-defined]
        for option, message in itertools.pairwise(body)
        if isinstance(option, ast.AnnAssign) and isinstance(message, ast.Expr)
    }
