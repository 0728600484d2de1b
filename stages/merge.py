"""merge: one model out of base and adapter."""

from axolotl_core.models.embeddings import embedding_rows
from axolotl_core.models.pin import open_pinned
from axolotl_core.release.merge import merge
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.tokenizer import read_tokenizer


def run(job: Job) -> Result:
    """merged/ from adapter/, base/ and tokenizer/ (its size: added tokens have rows in the embeddings)."""
    base = open_pinned(job.input("base"), job.project.root, job.project.stats, job.folder / "base")
    rows = embedding_rows(read_tokenizer(job.input("tokenizer")).size, job.params.model)
    how = merge(job.input("adapter"), base.folder, job.out, vocabulary=rows)
    base.check()
    size = sum(file.stat().st_size for file in job.out.glob("*.safetensors"))
    return Result({"weights_bytes": size}, f"{size / 2**20:,.0f} MiB of safetensors, {how}")
