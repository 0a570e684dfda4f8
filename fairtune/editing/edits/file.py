"""An edit that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fairtune.config import Config
from fairtune.editing import EDITS

if TYPE_CHECKING:
    from fairtune.editing.asks import Asks
    from fairtune.editing.learned import Learned
    from fairtune.editing.scene import Scene


@EDITS.register("file")
class FileEdit(Config):
    """The edit in a file, as it is.

    Attributes:
        path: A `.safetensors` of `fairtune dne learn`, or a file of another known format.
        sha: Digest of its values, pinned when the recipe is resolved; it stands for the path.
    """

    acts: ClassVar[bool] = True

    path: str
    sha: str | None = None

    @property
    def queries(self) -> int:
        """Nothing is asked: what it cost is told in the file."""
        return 0

    @property
    def attribute(self) -> str | None:
        """The file says what it was made to hide."""
        return None

    def attributed(self, default: str | None) -> FileEdit:
        """Return itself."""
        return self

    def pinned(self) -> FileEdit:
        """Return the rule with the digest of the file's values.

        Raises:
            ModelError: The file cannot be read, or is not the one that was pinned.
        """
        from fairtune.editing.stored import read_edit
        from fairtune.errors import ModelError

        found = read_edit(Path(self.path).expanduser()).sha
        if self.sha is not None and found != self.sha:
            raise ModelError(
                "this is not the edit that was pinned",
                where=self.path,
                found=found,
                allowed=self.sha,
                todo="give the file that was used then",
            )
        return self.model_copy(update={"sha": found})

    def canonical(self) -> dict[str, Any]:
        """Return the digest in place of the path, where it is known."""
        return {"path": self.path} if self.sha is None else {"sha": self.sha}

    def asks(self, rows: int) -> Asks:
        """Return nothing: the file is there."""
        from fairtune.editing.asks import Asks

        return Asks()

    def check(self, scene: Scene) -> None:
        """Refuse images that the edit in the file was not made for.

        Raises:
            ModelError: Another size or number of channels, or the file cannot be read.
        """
        from fairtune.editing.stored import read_edit

        read_edit(Path(self.path).expanduser()).check(scene.image_size, scene.channels)

    def make(self, scene: Scene) -> Learned:
        """Return the edit in the file.

        Raises:
            ModelError: The file cannot be read, or is not the one that was pinned.
        """
        from fairtune.editing.learned import Learned
        from fairtune.editing.stored import read_edit

        self.pinned()
        return Learned(read_edit(Path(self.path).expanduser()))
