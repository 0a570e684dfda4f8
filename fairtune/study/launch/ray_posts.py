"""The workers of a crew on a Ray cluster, watched until the last has left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairtune.study.launch import ray_post
from fairtune.study.launch.crew import LEFT, Crew, goes_on, in_words
from fairtune.study.launch.logs import all_lost

_PAUSE = 1.0
LOST = 1
"""Stands for the exit code of a worker whose actor Ray has given up."""


@dataclass(eq=False)
class _Post:
    slot: int
    actor: Any
    asked: Any
    begun: bool = False
    restarts: int = 0


@dataclass(eq=False)
class Posts:
    """One actor for every worker of a crew.

    Args:
        ray: The module, connected to a cluster.
        crew: What is started.
        needs: Options of an actor: what it needs of a node, and how often Ray places it anew.
        restarts: How often a worker that died is started again where it was.
        grace: Seconds that workers have to leave once they were told to.
        tell: Takes lines for people.
    """

    ray: Any
    crew: Crew
    needs: Mapping[str, Any]
    restarts: int
    grace: float
    tell: Callable[[str], None]
    ended: dict[int, int] = field(default_factory=dict)
    _posts: dict[int, _Post] = field(default_factory=dict)
    _told: float | None = None

    def __post_init__(self) -> None:
        self.ray.cloudpickle.register_pickle_by_value(ray_post)
        try:
            remote = self.ray.remote(ray_post.Post)
        finally:
            self.ray.cloudpickle.unregister_pickle_by_value(ray_post)
        own = {k: v for k, v in os.environ.items() if k.startswith("FAIRTUNE_")}
        environment = {**own, **self.crew.environment()}
        for slot in range(self.crew.workers):
            actor = remote.options(**self.needs).remote(
                self.crew.command(slot), environment, str(Path.cwd()), str(self.log(slot))
            )
            self._posts[slot] = _Post(slot, actor, actor.code.remote())

    def log(self, slot: int) -> Path:
        """Return where the worker of `slot` writes what it says."""
        return self.crew.folder / f"worker-{slot}.log"

    def going(self) -> bool:
        """Hear the workers for a moment; tell whether any of them has not left for good."""
        waiting = {post.asked: post for post in self._posts.values()}
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=_PAUSE)
        for answer in ready:
            self._heard(waiting[answer], answer)
        if self._posts and len(ready) == len(waiting):
            time.sleep(_PAUSE)
        if self._told is not None and time.monotonic() - self._told > self.grace:
            self._give_up()
        return bool(self._posts)

    def dismiss(self) -> None:
        """Ask every worker to keep the state of its run and to leave; once."""
        if self._told is not None:
            return
        self._told = time.monotonic()
        for post in list(self._posts.values()):
            if post.begun:
                post.actor.tell.remote(int(signal.SIGTERM))
            else:
                self._leave(post, 0)

    def check(self) -> None:
        """Refuse an end at which no worker found the work done, or was told to leave.

        Raises:
            StudyError: With the last words of one.
        """
        if self._told is None and not any(code in LEFT for code in self.ended.values()):
            slot, code = next(iter(self.ended.items()))
            raise all_lost(self.log(slot), in_words(code))

    def end(self) -> None:
        """Take every actor back."""
        for post in list(self._posts.values()):
            self._leave(post, LOST)

    def _heard(self, post: _Post, answer: Any) -> None:
        try:
            code = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()
            self.tell(f"worker {post.slot}: Ray has given it up: {reason[-1] if reason else ''}")
            self._leave(post, LOST)
            return
        post.begun = True
        if code is None:
            post.asked = post.actor.code.remote()
        elif self._told is not None or not goes_on(code, post.restarts, self.restarts):
            if code not in LEFT:
                self.tell(f"worker {post.slot}: {in_words(code)}; see {self.log(post.slot)}")
            self._leave(post, code)
            self._drop_unplaced(code)
        else:
            post.restarts += 1
            self.tell(
                f"worker {post.slot}: {in_words(code)}; started again "
                f"({post.restarts} of {self.restarts})"
            )
            post.actor.again.remote()
            post.asked = post.actor.code.remote()

    def _drop_unplaced(self, code: int) -> None:
        """Wait for no place for workers for which there is no work any more."""
        if code == 0:
            for post in [p for p in self._posts.values() if not p.begun]:
                self._leave(post, 0)

    def _leave(self, post: _Post, code: int) -> None:
        self.ray.kill(post.actor)
        self.ended[post.slot] = code
        del self._posts[post.slot]

    def _give_up(self) -> None:
        for post in list(self._posts.values()):
            self.tell(f"worker {post.slot}: has not left within {self.grace:.0f} s; killed")
            self._leave(post, LOST)
