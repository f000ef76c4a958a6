from __future__ import annotations

import numpy as np
from PIL import Image

from solo_gps.evaluation.gallery import MARGIN, NEUTRAL, OTHER, SAME, TILE, gallery


class Colours:
    labels = np.array([0, 0, 1, -1])
    values = ((10, 20, 30), (40, 50, 60), (70, 80, 90), (100, 110, 120))

    def __len__(self):
        return 4

    def image(self, index):
        return Image.new("RGB", (8, 8), self.values[index])


def test_tiles_and_frames_are_where_they_belong(tmp_path):
    file = gallery(Colours(), [0], np.array([[1, 2, 3, -1]]), tmp_path / "new" / "picture.png")
    sheet = Image.open(file)
    cell = TILE + 2 * MARGIN
    middle = 22 + MARGIN + TILE // 2
    lefts = [MARGIN] + [column * cell + 2 * MARGIN for column in (1, 2, 3, 4)]
    assert [sheet.getpixel((left + TILE // 2, middle)) for left in lefts[:4]] == list(Colours.values)
    assert [sheet.getpixel((left - 2, middle)) for left in lefts[1:4]] == [SAME, OTHER, NEUTRAL]
    assert sheet.getpixel((lefts[4] + TILE // 2, middle)) == (255, 255, 255)
    assert [path.name for path in file.parent.iterdir()] == ["picture.png"]
