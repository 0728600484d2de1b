"""Rows of a hub dataset, through the datasets library."""

from collections.abc import Iterator
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from axolotl_core.errors import DataError, one_line
from axolotl_core.sources.readers import without_fillers

BUFFER_ROWS, SHUFFLE_SEED = 10_000, 42
NO_NETWORK = (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError, TimeoutError)


def read_hub(
    repository: str,
    *,
    name: str | None,
    data_files: str | list[str] | None,
    split: str | None,
    revision: str | None,
    token: bool | None,
    streaming: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of `split`, or of `train`.

    streaming: rows are read as they are asked for, shuffled through a buffer of BUFFER_ROWS from SHUFFLE_SEED.

    Raises DataError: no such repository, no such configuration or split, no network.
    """
    try:
        found = datasets.load_dataset(repository, name, data_files=data_files, revision=revision, token=token, streaming=streaming)
    except (DatasetNotFoundError, RepositoryNotFoundError) as error:
        raise DataError(f"{repository}: neither a file or folder here nor a dataset of the hub: {one_line(error)}") from None
    except NO_NETWORK as error:
        raise DataError(f"{repository}: the hub cannot be reached ({one_line(error)}); fetch on a machine with a network") from None
    except ValueError as error:  # datasets' word for a configuration that is not there
        raise DataError(f"{repository}: {one_line(error)}") from None
    wanted = split or "train"
    if wanted not in found:
        raise DataError(f"{repository}: has no split '{wanted}'; it has {', '.join(found)}; set train_on_split")
    rows = found[wanted].shuffle(seed=SHUFFLE_SEED, buffer_size=BUFFER_ROWS) if streaming else found[wanted]
    line = 0
    for block in rows.iter(1000):
        columns = list(block)
        for values in zip(*block.values(), strict=True):
            line += 1
            yield line, {name: without_fillers(value) for name, value in zip(columns, values, strict=True)}
