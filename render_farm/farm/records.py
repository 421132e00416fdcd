"""From what an engine answered to the lines of metadata that the output room writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from render_farm import __version__
from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.several import Models
from render_farm.errors import RowError
from render_farm.job.request import RenderRequest, Row
from render_farm.job.spec import ONLY_MODEL, RequestField
from render_farm.ledger.record import RunRecord
from render_farm.output.metadata import SampleRecord


@dataclass(frozen=True, slots=True)
class Scribe:
    """Writes the metadata of one worker's samples."""

    run: RunRecord
    models: Models
    worker: str

    def done(self, outcome: Rendered, measured: tuple[float, float], now: datetime) -> SampleRecord:
        """A sample that was rendered at `now`, with the mean and deviation of its `luma`."""
        mean_luma, std_luma = measured
        return SampleRecord(
            status="done",
            mean_luma=mean_luma,
            std_luma=std_luma,
            flags=outcome.flags,
            cut_tokens=outcome.cut_tokens,
            nsfw=outcome.nsfw,
            batch_shape=outcome.batch_shape,
            render_s=outcome.render_s,
            **_parameters(outcome.request),
            **self._provenance(outcome.request.model, now),
        )

    def refused(self, outcome: Refused, now: datetime) -> SampleRecord:
        """A row, one sample of which was refused: the row is quarantined with that error."""
        return SampleRecord(
            status="quarantined",
            error_type=outcome.error_type,
            error=outcome.error,
            **_parameters(outcome.request),
            **self._provenance(outcome.request.model, now),
        )

    def unresolved(self, row: Row, error: RowError, now: datetime) -> SampleRecord:
        """A row whose values cannot be used; they are recorded as far as columns can hold them."""
        mapping: dict[RequestField, str] = self.run.prompts.request_columns()
        values = {field: row.columns[column] for field, column in mapping.items()}
        model = values.pop("model", None)
        if model is None:
            model = ONLY_MODEL if self.run.job.models is None else self.run.job.defaults.model
        given = {k: None if isinstance(v, Exception) else v for k, v in values.items()}
        if given.get("id") is not None:
            given["id"] = str(given["id"])
        return SampleRecord(
            row=row.row,
            status="quarantined",
            error_type=error.error_type,
            error=error.message,
            **given,
            **self._provenance(model, now),
        )

    def _provenance(self, model: Any, now: datetime) -> dict[str, Any]:
        """Where a sample is from; of a `model` that there is not nothing is known."""
        pinned = self.run.pinned.get(model)
        return {
            "model": pinned.path if pinned else None,
            "revision": pinned.revision if pinned else None,
            "dtype": self.models.info(model).dtype if pinned else None,
            "worker": self.worker,
            "device": self.models.device,
            "created_at": now,
            "render_farm_version": __version__,
        }


def _parameters(request: RenderRequest) -> dict[str, Any]:
    return {
        "row": request.row,
        "sample": request.sample,
        "id": request.id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": request.scheduler,
    }
