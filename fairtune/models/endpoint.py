"""An endpoint: answers to images, from the disk where it has answered before, else by asking."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairtune.errors import EndpointAway, Interrupted, ModelError
from fairtune.models.answers import Answers, Floats
from fairtune.models.transport import LONGEST, Fault, Transport
from fairtune.models.wire import IMAGES, Array, most_bytes, packed, unpacked

if TYPE_CHECKING:
    from fairtune.models.loaders.http import Http

log = logging.getLogger(__name__)

_PAUSE = 0.1
_MARGIN = 30.0


class Endpoint:
    """Asks one endpoint.

    Attributes:
        asked: What it is and how it is asked.
        answers: What it has answered.
        poll: Reason to leave, or None; asked while it waits.
    """

    def __init__(self, asked: Http, answers: Answers) -> None:
        self.asked, self.answers = asked, answers
        self.poll: Callable[[], str | None] = _nobody
        self._transport = Transport(asked.url, asked.timeout, asked.token_env)

    def embed(self, images: Array) -> Floats:
        """Return `(n, dim)` answers to `(n, channels, height, width)` images.

        Images without an answer are sent, each once, at most `batch` together. Images that another
        process is asking for are waited for.

        Raises:
            ModelError: The answer to a request cannot be used.
            EndpointAway: Nothing answers, or not to us; what was answered before is kept.
            Interrupted: `poll` has a reason to leave.
            StorageError: Answers cannot be kept.
        """
        keys = [_key(image) for image in images]
        place = {key: i for i, key in enumerate(keys)}
        found, sent = self.answers.find(keys), 0
        while missing := [key for key in place if key not in found]:
            self._wait(0.0)
            taken = self.answers.take_on(missing, self.asked.batch, self._patience)
            if taken:
                try:
                    found |= self._ask(images[[place[key] for key in taken]], taken)
                except BaseException:
                    self.answers.give_up(taken)
                    raise
                sent += len(taken)
            else:
                self._wait(_PAUSE)
                found |= self.answers.find(missing)
        self.answers.serve(len(keys) - sent)
        if not keys:
            return np.empty((0, self.asked.dim), np.float32)
        return np.stack([found[key] for key in keys])

    @property
    def _patience(self) -> float:
        """Seconds after which it is taken that a request of another process has no end."""
        return self.asked.timeout + _MARGIN

    def _ask(self, images: Array, keys: Sequence[bytes]) -> dict[bytes, Floats]:
        asked, attempts = self.asked, self.asked.retries + 1
        body = packed(images, asked.send, IMAGES)
        most = most_bytes(len(keys) * asked.dim, asked.receive)
        self._transport.prepare()
        for attempt in range(1, attempts + 1):
            self._take_turn(keys)
            number = self.answers.begin(keys, len(body), self._patience)
            try:
                answer = self._transport.post(body, asked.send, asked.receive, most)
                rows = self._checked(answer, len(keys))
            except Fault as fault:
                self.answers.end(number, fault.status, fault.size)
                if not fault.passing or attempt == attempts or fault.after > LONGEST:
                    raise self._error(fault, attempt) from None
                pause = fault.pause(asked.backoff, attempt)
                log.warning(
                    "%s: %s (%s); again in %.1f s", asked.url, fault.what, fault.found, pause
                )
                self._wait(pause, keys)
                continue
            found = dict(zip(keys, rows, strict=True))
            self.answers.keep(number, found, len(answer))
            return found
        raise AssertionError("no attempt was made")

    def _checked(self, body: bytes, rows: int) -> Floats:
        """Return the `(rows, dim)` answers in a body.

        Raises:
            Fault: They are none, too few, of another length, or not finite.
        """
        try:
            found = unpacked(body, self.asked.receive, self.asked.field)
        except ModelError as error:
            raise Fault(
                "malformed",
                error.what,
                error.found,
                allowed=error.allowed,
                todo="check loader.http.receive and field",
                size=len(body),
            ) from None
        fault = self._mismatch(found, rows)
        if fault is None:
            with np.errstate(over="ignore"):
                made = found.astype(np.float32)
            if np.isfinite(made).all():
                return made
            bad = int((~np.isfinite(made)).any(axis=1).sum())
            fault = ("an answer is not finite", f"{bad} of {rows} rows", "finite numbers")
        what, said, allowed = fault
        raise Fault("malformed", what, said, allowed=allowed, size=len(body))

    def _mismatch(self, found: NDArray[Any], rows: int) -> tuple[str, object, str] | None:
        shape, dim = found.shape, self.asked.dim
        allowed = f"({rows}, {dim})"
        if self.asked.receive == "npy" and found.dtype.kind != "f":
            return "the answer is not of floating point", str(found.dtype), "float32"
        if len(shape) == 2 and shape[1] == dim and shape[0] < rows:
            return "half an answer: rows are missing", shape, allowed
        if shape != (rows, dim):
            return "the answer has another shape", shape, allowed
        return None

    def _error(self, fault: Fault, attempt: int) -> ModelError:
        kind = EndpointAway if fault.away else ModelError
        attempts = self.asked.retries + 1
        return kind(
            f"{fault.what} (attempt {attempt} of {attempts})",
            where=self.asked.url,
            found=fault.found,
            allowed=fault.allowed,
            todo=fault.todo or ("try again later: answers are kept" if fault.away else None),
        )

    def _take_turn(self, keys: Sequence[bytes]) -> None:
        if self.asked.per_second:
            self._wait(self.answers.turn(self.asked.per_second), keys)

    def _wait(self, seconds: float, keys: Sequence[bytes] = ()) -> None:
        """Wait, and leave when there is a reason to; `keys` stay this process's meanwhile."""
        end = time.monotonic() + seconds
        if keys and seconds > _MARGIN / 2:
            self.answers.hold(keys, seconds + self._patience)
        while True:
            reason = self.poll()
            if reason is not None:
                raise Interrupted(
                    f"stopped while waiting for {self.asked.url}; its answers are kept",
                    found=reason,
                )
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_PAUSE, left))

    def __deepcopy__(self, memo: dict[int, Any]) -> Endpoint:
        """Return itself: runs that share a backbone share its endpoint."""
        return self


def _key(image: Array) -> bytes:
    """Return the digest of an image as it is sent."""
    sha = hashlib.sha256(f"{image.dtype.name}{image.shape}".encode())
    sha.update(np.ascontiguousarray(image).tobytes())
    return sha.digest()


def _nobody() -> str | None:
    return None
