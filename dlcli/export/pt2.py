"""Format pt2: a traced program as an archive of torch.export."""

import io
import json
from collections.abc import Mapping

import torch

from dlcli.export.program import Traced, quiet

METADATA = "metadata.json"


def write(traced: Traced, metadata: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with quiet():
        torch.export.save(traced.program, file, extra_files={METADATA: json.dumps(dict(metadata), ensure_ascii=False)})
    return file.getvalue()
