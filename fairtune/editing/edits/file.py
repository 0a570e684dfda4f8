"""An edit that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fairtune.config import Config
from fairtune.editing import EDITS

if TYPE_CHECKING:
    from fairtune.editing.asks import Asks
    from fairtune.editing.edit import Edit
    from fairtune.editing.learned import Learned
    from fairtune.editing.scene import Scene


@EDITS.register("file")
class FileEdit(Config):
    """The edit in a file, as it is.

    Attributes:
        path: A `.safetensors` of `fairtune dne learn`, or a file of another known format.
        sha: Digest of its values, pinned when the recipe is resolved; it stands for the path.
        other_model: Take an edit that was learned against another model, to see what it does here.
    """

    acts: ClassVar[bool] = True

    path: str
    sha: str | None = None
    other_model: bool = False

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
        said: dict[str, Any] = {"path": self.path} if self.sha is None else {"sha": self.sha}
        return said | ({"other_model": True} if self.other_model else {})

    def asks(self, rows: int) -> Asks:
        """Return nothing: the file is there."""
        from fairtune.editing.asks import Asks

        return Asks()

    def check(self, scene: Scene) -> None:
        """Refuse images and a model that the edit in the file was not made for.

        Raises:
            ModelError: Another size or number of channels, another model that is not allowed, or
                the file cannot be read.
        """
        self._read(scene)

    def _read(self, scene: Scene) -> Edit:
        from fairtune.editing.stored import read_edit
        from fairtune.errors import ModelError

        edit = read_edit(Path(self.path).expanduser())
        edit.check(scene.image_size, scene.channels)
        known, here = edit.about.get("model"), Path(scene.model).stem
        if isinstance(known, str) and Path(known).stem != here and not self.other_model:
            raise ModelError(
                "the edit was learned against another model",
                where=self.path,
                found=Path(known).stem,
                allowed=here,
                todo="learn one with this model; to try it all the same, write it into the recipe "
                "as edit: {file: {path: FILE, other_model: true}}",
            )
        return edit

    def make(self, scene: Scene) -> Learned:
        """Return the edit in the file.

        Raises:
            ModelError: The file cannot be read, is not the one that was pinned, or see `check`.
        """
        from fairtune.editing.learned import Learned

        self.pinned()
        return Learned(self._read(scene))
