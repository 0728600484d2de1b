"""Axolotl's spellings in a file that has sections already: they are taken, with a sentence where it is another word."""

from collections.abc import Iterator
from typing import Any

from axolotl_core.params.document import Document, Where
from axolotl_core.params.flat import datasets, values
from axolotl_core.params.flat.migration import Migration


def with_names(document: Document) -> tuple[Document, list[Migration]]:
    """`datasets` as a list gets names from its paths; any other document stays as it is."""
    if not isinstance(document.values.get("datasets"), list):
        return document, []
    out = Document(document.source, {key: value for key, value in document.values.items() if key != "datasets"})
    document.move((), (), out)
    for where in [where for where in out.lines if where[:1] == ("datasets",) and len(where) > 1]:
        del out.lines[where]
    datasets.named(document, "datasets", out)
    names = ", ".join(out.values["datasets"])
    return out, [Migration("datasets", "replaced", f"datasets is a list, whose entries are called by their paths: {names}")]


def rename_in_datasets(document: Document) -> Iterator[tuple[Where, str]]:
    """`split` is `train_on_split` here, in place; yields what is set twice."""
    found = document.values.get("datasets")
    named: dict[str, Any] = found if isinstance(found, dict) else {}
    for name, data in named.items():
        if isinstance(data, dict) and "split" in data:
            where = ("datasets", name, "split")
            if "train_on_split" in data:
                yield where, "split and train_on_split are both set, and mean the same; remove one"
            named[name] = {("train_on_split" if key == "split" else key): value for key, value in data.items()}
            if where in document.lines:
                document.lines["datasets", name, "train_on_split"] = document.lines[where]


def replace_removed_optimizer(document: Document) -> list[str]:
    """Replace the name of an optimizer that is not here by the nearest one, in place; a sentence about it, if so."""
    where: Where = ("training", "optimizer")
    training = document.values.get("training")
    name = training.get("optimizer") if isinstance(training, dict) else None
    found = values.optimizer(name) if isinstance(name, str) else None
    if found is None or not found[1]:
        return []
    document.values["training"] = {**training, "optimizer": found[0]}  # type: ignore[dict-item]
    return [f"{document.place(where)}: optimizer {name} is taken as {found[0]}: {found[1]}"]
