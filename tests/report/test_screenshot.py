"""The page in a real browser, on a light and a dark desk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairtune.report.write import write
from fairtune.study.overview import Overview

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=20000", "--window-size=1400,3600",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn(dark: bool, view: Overview, chromium: str, tmp_path: Path) -> None:
    page, shot = write(view, tmp_path / "page.html"), tmp_path / "page.png"
    done = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert (pixels[0, 0].mean() < 60) == dark
    # The picks' blue is drawn by the plots alone, in the page's own shade for either desk.
    blue = np.array((0x63, 0xB3, 0xF5) if dark else (0x0B, 0x5F, 0xA5))
    lower = pixels[1300:]
    assert (np.abs(lower - blue).max(axis=2) < 8).sum() > 300
