"""What the figures on the site get from Python."""

import base64
import io
import json

import pytest
import torch
from PIL import Image

from frcnn_common.touch import picture_url, touch_data


def test_numbers_are_rounded_and_whole_ones_stay_whole():
    data = touch_data(boxes=torch.tensor([[0.123456, 2.0]]), count=3, deep={"k": (1, [0.99999])})
    assert json.loads(data.text) == {"boxes": [[0.1235, 2.0]], "count": 3, "deep": {"k": [1, [1.0]]}}


def test_more_digits_can_be_kept():
    assert json.loads(touch_data(digits=9, beta=1 / 9).text) == {"beta": 0.111111111}


def test_no_text_can_end_the_block():
    html = touch_data(name="</script><b>")._repr_html_()
    assert html.count("</script>") == 1 and html.endswith("</script>")
    assert json.loads(html[len('<script type="application/json">') : -len("</script>")]) == {"name": "</script><b>"}


def test_a_number_that_json_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match="not JSON compliant"):
        touch_data(loss=torch.tensor(float("nan")))


def test_in_a_notebook_the_data_have_a_short_name():
    assert repr(touch_data(a=1)) == "<7 characters of data for the figure on the site>"


def test_a_picture_keeps_its_size_and_nearly_its_colors():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[0] = 200
    url = picture_url(image)
    assert url.startswith("data:image/webp;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    assert picture.size == (60, 40)
    red, green, blue = picture.getpixel((30, 20))
    assert abs(red - 200) < 8 and green < 8 and blue < 8
