"""Pachyderm's pipeline spec: checked, and turned into one effective form. Pure.

``fields`` are the kinds of values, ``model`` and ``inputs`` the fields, ``reading`` goes from a document to the effective form.
"""

from trunkline.pipelines.spec.inputs import CronInput, PfsInput, leaves_of
from trunkline.pipelines.spec.model import PARALLELISM_MAX, PipelineSpec
from trunkline.pipelines.spec.reading import (
    effective,
    input_in_short,
    limits_of,
    notes,
    parse_spec,
    with_defaults,
)

__all__ = [
    "PARALLELISM_MAX",
    "CronInput",
    "PfsInput",
    "PipelineSpec",
    "effective",
    "input_in_short",
    "leaves_of",
    "limits_of",
    "notes",
    "parse_spec",
    "with_defaults",
]
