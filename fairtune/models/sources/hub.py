"""Weights from a model hub, through the record that timm keeps of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fairtune.config import Config, Settings
from fairtune.errors import ModelError
from fairtune.models.registries import SOURCES

if TYPE_CHECKING:
    import torch

    from fairtune.models.spec import ModelSpec

_SECONDS = 5.0
_FILE = "model.safetensors"
_INDEX = ".index.json"


@SOURCES.register("hub")
class Hub(Config):
    """A safetensors file in a repository of a model hub, or several with an index.

    Attributes:
        repository: `owner/name`; None takes the one timm names for the architecture.
        file: Name of the file in the repository; of weights in several files that of their index,
            `model.safetensors.index.json`.
    """

    repository: str | None = None
    file: str = _FILE

    def label(self) -> str:
        """Return the name used in messages and provenance."""
        file = "" if self.file == _FILE else f" ({self.file})"
        return f"model hub {self.repository}{file}" if self.repository else f"model hub{file}"

    def remedy(self) -> str:
        """Return what a user can do where the hub does not answer."""
        return "connect to the model hub"

    def fetch(self, spec: ModelSpec, settings: Settings) -> dict[str, torch.Tensor]:
        """Return the file's tensors; a hub that does not answer at once is given up.

        Raises:
            ModelError: The hub is switched off, cannot be reached or has no such file.
        """
        from fairtune.models import tensors

        if not self.file.endswith(_INDEX):
            return tensors.read(self._file(spec, settings))
        placed = self._placed(spec, settings)
        found: dict[str, torch.Tensor] = {}
        for shard in sorted(set(placed.values())):
            found |= tensors.read(self._shard(shard)._file(spec, settings))
        lost = [name for name, shard in placed.items() if name not in found]
        if lost:
            raise ModelError(
                "the files lack tensors that their index names", where=self.file, found=lost[:5]
            )
        return {name: found[name] for name in placed}

    def content(self, spec: ModelSpec, settings: Settings) -> bytes:
        """Return the file as it is.

        Raises:
            ModelError: The hub is switched off, cannot be reached or has no such file.
        """
        return self._file(spec, settings).read_bytes()

    def _placed(self, spec: ModelSpec, settings: Settings) -> dict[str, str]:
        """Return the file that each tensor is in, as the index says."""
        try:
            placed = json.loads(self._file(spec, settings).read_bytes())["weight_map"]
            names = {str(name): str(shard) for name, shard in placed.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError("the index of the weights is damaged", where=self.file) from None
        strange = sorted({s for s in names.values() if "/" in s or "\\" in s or s.startswith(".")})
        if strange or not names:
            raise ModelError(
                "the index of the weights names no files beside it",
                where=self.file,
                found=strange[:5] or None,
            )
        return names

    def _shard(self, name: str) -> Hub:
        """Return one of the files of the index."""
        return self.model_copy(update={"file": name})

    def _file(self, spec: ModelSpec, settings: Settings) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        held = self._held(spec)
        if held is not None:
            return held
        reason = self.reachable(spec, settings)
        if reason is not None:
            raise ModelError(reason)
        try:
            path = hf_hub_download(self._repository(spec), self.file, etag_timeout=_SECONDS)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(str(error).strip().splitlines()[0]) from None
        return Path(path)

    def reachable(self, spec: ModelSpec, settings: Settings) -> str | None:
        """Return why the hub cannot be asked, or None; takes at most five seconds."""
        if self._held(spec) is not None:
            return None
        if settings.offline:
            return "switched off (FAIRTUNE_OFFLINE or HF_HUB_OFFLINE)"
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self._repository(spec), self.file)
        answer: list[str | None] = []
        # A thread, because no timeout of a client covers a name server that never answers.
        asker = threading.Thread(target=lambda: answer.append(_head(url)), daemon=True)
        asker.start()
        asker.join(_SECONDS + 1)
        return answer[0] if answer else "no answer within a few seconds"

    def _held(self, spec: ModelSpec) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self._repository(spec), self.file)
        return Path(found) if isinstance(found, str) else None

    def _repository(self, spec: ModelSpec) -> str:
        if self.repository:
            return self.repository
        from fairtune.models.network import pretrained_cfg

        cfg = pretrained_cfg(spec.architecture)
        if cfg is None or not cfg.hf_hub_id:
            raise ModelError("timm names no hub repository for this architecture")
        return str(cfg.hf_hub_id)


def _head(url: str) -> str | None:
    from huggingface_hub import get_session

    try:
        status = get_session().head(url, timeout=_SECONDS).status_code
    except Exception as error:  # the client, and so its exceptions, differ by version of the hub
        return f"cannot be reached ({type(error).__name__})"
    return f"answers with HTTP {status}" if status >= 400 else None
