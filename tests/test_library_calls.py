"""What a learner may hand over: plain meanings are understood, everything else is answered in one sentence."""

import numpy as np
import pytest
import torch

from course_utils.errors import InputError, integer, number
from course_utils.generator.conditions import mask_tensor, picture_tensor
from course_utils.systems import text_pixel
from course_utils.systems.stage import Stage, System
from course_utils.systems.text_pixel import TextPixel
from tests.test_stable_diffusion import PROMPTS, SIDE, hole, random, tiny_system


def last(states):
    """The latents or pictures that a walk ends with."""
    *_, state = states
    return state.xt


def generator():
    return torch.Generator().manual_seed(5)


@pytest.fixture(scope="module")
def sd():
    return tiny_system()


@pytest.fixture(scope="module")
def pixel():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TextPixel().eval()


def pictures(count=2):
    """Bytes (B, H, W, 3), and the same as floats (B, 3, H, W) in [-1, 1]."""
    as_bytes = (random(count, SIDE, SIDE, 3, seed=2).sigmoid() * 255).byte()
    return as_bytes.numpy(), as_bytes.permute(0, 3, 1, 2).float() / 127.5 - 1


# ------------------------------------------------------------------ prompts
def test_a_text_is_one_prompt(sd, pixel):
    assert torch.equal(sd.encode_prompt("cat"), sd.encode_prompt(["cat"]))
    assert torch.equal(pixel.encode_prompt("cat")[0], pixel.encode_prompt(["cat"])[0])
    zT = random(1, 4, 8, 8)
    assert torch.equal(last(sd.txt2img(zT, "cat", 3)), last(sd.txt2img(zT, ["cat"], 3)))
    xT = random(1, 3, 32, 32)
    assert torch.equal(last(pixel.sample(xT, "cat", 2)), last(pixel.sample(xT, ["cat"], 2)))


def test_one_prompt_serves_all_noises_and_one_noise_all_prompts(sd, pixel):
    zT, xT = random(3, 4, 8, 8), random(3, 3, 32, 32)
    assert torch.equal(last(sd.txt2img(zT, "cat", 2)), last(sd.txt2img(zT, ["cat"] * 3, 2)))
    assert torch.equal(last(sd.txt2img(zT[:1], PROMPTS, 2)), last(sd.txt2img(zT[:1].repeat(2, 1, 1, 1), PROMPTS, 2)))
    assert torch.equal(last(pixel.sample(xT, "cat", 2)), last(pixel.sample(xT, ["cat"] * 3, 2)))
    assert last(pixel.sample(xT[:1], PROMPTS, 2)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("network", ["sd", "pixel"])
def test_a_negative_prompt_for_each(request, network):
    network = request.getfixturevalue(network)
    walk, noise = (network.txt2img, random(2, 4, 8, 8)) if hasattr(network, "vae") else (
        network.sample, random(2, 3, 32, 32))  # fmt: skip
    options = {"steps": 2, "guidance": 3.0}
    both = last(walk(noise, PROMPTS, negative=["dog", ""], **options))
    one, none = (last(walk(noise, PROMPTS, negative=negative, **options)) for negative in ("dog", None))
    assert torch.allclose(both[0], one[0], atol=1e-5) and torch.allclose(both[1], none[1], atol=1e-5)
    assert torch.allclose(last(walk(noise, PROMPTS, negative=["dog"], **options)), one, atol=1e-5)
    assert torch.allclose(last(walk(noise, PROMPTS, negative="", **options)), none, atol=1e-5)
    assert not torch.allclose(one, none)


def test_a_system_takes_a_text_and_a_list_of_negative_ones():
    def system(network):
        def model(prompts, guidance, negative, before):
            return network.conditioned_model(prompts, guidance, negative)

        def sampler(model, xT, steps):
            return text_pixel.dpmpp_2m(model, xT, text_pixel.SCHEDULE, steps, text_pixel.PREDICTION)

        return System((Stage("picture", (3, 32, 32), model, sampler),), torch.device("cpu"), 1, 2.0)

    drawing = system(TextPixel().eval())
    assert drawing.draw("butterfly").shape == (1, 32, 32, 3)  # and not a picture a letter
    assert drawing.draw(PROMPTS, negative=["dog", "cat"]).shape == (2, 32, 32, 3)
    assert drawing.draw(["cat"] * 17, negative=["dog"] * 17).shape == (17, 32, 32, 3)  # more than one batch
    for wrong in (["a", "b", "c"], [3], 7, []):
        with pytest.raises(InputError, match="negative prompt"):
            drawing.draw(PROMPTS, negative=wrong)


@pytest.mark.parametrize("prompts", [None, 3, [], [None], ["cat", 3], [b"cat"], {"cat": 1}.values()])
def test_what_is_no_prompt_is_answered_in_one_sentence(sd, pixel, prompts):
    calls = [
        lambda: sd.encode_prompt(prompts),
        lambda: next(sd.txt2img(random(1, 4, 8, 8), prompts, 2)),
        lambda: next(sd.img2img(pictures(1)[1], prompts)),
        lambda: next(sd.inpaint(random(1, 4, 8, 8), pictures(1)[1], hole()[:1], prompts)),
        lambda: pixel.encode_prompt(prompts),
        lambda: next(pixel.sample(random(1, 3, 32, 32), prompts)),
    ]
    for call in calls:
        with pytest.raises(InputError, match="prompt") as error:
            call()
        assert "\n" not in str(error.value)


def test_numbers_of_prompts_and_noises_that_do_not_fit(sd, pixel):
    with pytest.raises(InputError, match="give one or 3 of the noises"):
        next(sd.txt2img(random(2, 4, 8, 8), ["cat"] * 3))
    with pytest.raises(InputError, match="give one prompt, or 3"):
        next(pixel.sample(random(3, 3, 32, 32), PROMPTS))
    with pytest.raises(InputError, match="give one or 3 of the negative prompts|give one negative prompt, or 3"):
        next(sd.txt2img(random(3, 4, 8, 8), "cat", negative=["a", "b"]))
    with pytest.raises(InputError, match="give one or 3 of the pictures"):
        next(sd.img2img(pictures(2)[1], ["cat"] * 3))
    with pytest.raises(InputError, match="give one or 3 of the masks"):
        next(sd.inpaint(random(3, 4, 8, 8), pictures(1)[1], hole(), "cat"))


# ------------------------------------------------------------------ pictures and masks
def test_bytes_are_pictures(sd):
    as_bytes, floats = pictures()
    for given in (as_bytes, torch.from_numpy(as_bytes), torch.from_numpy(as_bytes).permute(0, 3, 1, 2), floats.numpy()):
        assert torch.allclose(picture_tensor(given), floats, atol=1e-6)
    assert torch.allclose(picture_tensor(as_bytes[0]), floats[:1], atol=1e-6)
    walks = [last(sd.img2img(x, PROMPTS, 0.5, 4, generator())) for x in (as_bytes, floats)]
    assert torch.allclose(*walks, atol=1e-5)


@pytest.mark.parametrize("in_channels", [4, 9])
def test_masks_of_every_kind_say_the_same(in_channels):
    sd, (as_bytes, floats) = tiny_system(in_channels), pictures()
    mask, zT = hole(), random(2, 4, 8, 8, seed=3)

    def fill(pictures, mask):
        return last(sd.inpaint(zT, pictures, mask, PROMPTS, 3, generator()))

    expected = fill(floats, mask)
    for given in (mask.bool(), mask.byte(), (mask * 255).byte(), mask.numpy() > 0, mask[:, 0], mask.double()):
        assert torch.allclose(fill(as_bytes, given), expected, atol=1e-5)
    both = fill(floats, mask[:1])
    assert torch.equal(both, fill(floats, mask[:1].repeat(2, 1, 1, 1))) and torch.equal(both, fill(floats, mask[0, 0]))


def test_inpainting_with_one_of_each_is_the_same_as_with_copies(sd):
    floats, mask, zT = pictures(1)[1], hole()[:1], random(3, 4, 8, 8)
    copies = (floats.repeat(3, 1, 1, 1), mask.repeat(3, 1, 1, 1), ["cat"] * 3)
    one = last(sd.inpaint(zT, floats, mask, "cat", 3, generator()))
    assert torch.equal(one, last(sd.inpaint(zT, *copies, 3, generator())))
    assert one.shape == (3, 4, 8, 8)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (pictures(1)[1] * 127.5 + 127.5, r"must lie in \[-1, 1\], or be bytes"),
        (torch.full((1, 3, 8, 8), float("nan")), r"must lie in \[-1, 1\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.long), r"must lie in \[-1, 1\]"),
        (torch.zeros(1, 4, 8, 8), r"the shape \(B, 3, H, W\)"),
        (torch.zeros(8, 8), r"the shape \(B, 3, H, W\)"),
        (torch.zeros(0, 3, 8, 8), r"the shape \(B, 3, H, W\)"),
        ("cat.png", "must be a tensor or an array, not str"),
        (None, "must be a tensor or an array, not NoneType"),
        (torch.zeros(1, 3, 30, 32), r"multiples of 4, not \(30, 32\)"),
    ],
)
def test_what_is_no_picture(sd, given, sentence):
    calls = [
        lambda: sd.encode(given),
        lambda: next(sd.img2img(given, "cat")),
    ]
    for call in calls:
        with pytest.raises(InputError, match=sentence):
            call()


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.full((1, 1, SIDE, SIDE), 255.0), r"lie in \[0, 1\]"),
        (torch.full((1, 1, SIDE, SIDE), -1.0), r"lie in \[0, 1\]"),
        (torch.full((1, 1, SIDE, SIDE), float("nan")), r"lie in \[0, 1\]"),
        (torch.zeros(1, 3, SIDE, SIDE), r"the shape \(B, 1, H, W\)"),
        (torch.zeros(1, 1, 8, 8), "need a mask of that size"),
        ("everything", "the mask must be a tensor or an array"),
    ],
)
@pytest.mark.parametrize("in_channels", [4, 9])
def test_what_is_no_mask(in_channels, mask, sentence):
    with pytest.raises(InputError, match=sentence):
        next(tiny_system(in_channels).inpaint(random(1, 4, 8, 8), pictures(1)[1], mask, "cat"))
    assert mask_tensor(np.ones((4, 4), bool)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("zT", [None, random(1, 3, 8, 8), random(4, 8, 8), torch.zeros(1, 4, 8, 8, dtype=torch.long)])
def test_what_is_no_noise(sd, zT):
    with pytest.raises(InputError, match="noise"):
        next(sd.txt2img(zT, "cat"))


def test_noises_of_another_size_than_the_pictures(sd):
    with pytest.raises(InputError, match="noises 4 times smaller"):
        next(sd.inpaint(random(1, 4, 4, 4), pictures(1)[1], hole()[:1], "cat"))


# ------------------------------------------------------------------ numbers
@pytest.mark.parametrize(
    ("strength", "steps", "taken"), [(0.04, 20, 1), (1e-9, 3, 1), (0.5, 1, 1), (1, 7, 7), (0, 9, 0)]
)
def test_a_small_strength_takes_one_step_and_none_takes_none(sd, strength, steps, taken):
    states = list(sd.img2img(pictures()[1], PROMPTS, strength, steps, generator()))
    assert [state.step for state in states] == list(range(1, taken + 1))
    if taken:
        assert states[-1].xt.shape == (2, 4, 8, 8) and torch.isfinite(states[-1].xt).all()


def test_numbers_may_come_from_numpy_or_torch(sd):
    zT = random(1, 4, 8, 8)
    plain = last(sd.txt2img(zT, "cat", 3, 2.0))
    for steps, guidance in ((np.int64(3), np.float32(2)), (torch.tensor(3), torch.tensor(2.0)), (3, np.int32(2))):
        assert torch.equal(last(sd.txt2img(zT, "cat", steps, guidance)), plain)
    floats = pictures(1)[1]
    walks = [last(sd.img2img(floats, "cat", r, 4, generator())) for r in (0.5, np.float32(0.5), torch.tensor(0.5))]
    assert torch.equal(walks[0], walks[1]) and torch.equal(walks[0], walks[2])
    for seed in (7, np.int64(7), np.uint8(7), torch.tensor(7), np.array(7)):
        assert integer("seed", seed, (0, 9)) == 7 and type(integer("seed", seed, (0, 9))) is int
    for value in (2, 2.0, np.float32(2), np.float64(2), np.int8(2), torch.tensor(2.0), torch.tensor(2)):
        assert number("guidance", value, (0, 9)) == 2.0 and type(number("guidance", value, (0, 9))) is float


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), "2", None, np.array([2.0, 3.0]), 2j])
def test_what_is_no_number(value):
    for check in (integer, number):
        with pytest.raises(InputError, match="must be a"):
            check("guidance", value, (0, 9))


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2.5}, {"guidance": -1}, {"guidance": "strong"}])
def test_numbers_out_of_range(sd, pixel, options):
    name = next(iter(options))
    calls = [
        lambda: next(sd.txt2img(random(1, 4, 8, 8), "cat", **options)),
        lambda: next(sd.img2img(pictures(1)[1], "cat", **options)),
        lambda: next(sd.inpaint(random(1, 4, 8, 8), pictures(1)[1], hole()[:1], "cat", **options)),
        lambda: next(pixel.sample(random(1, 3, 32, 32), "cat", **options)),
    ]
    for call in calls:
        with pytest.raises(InputError, match=f"{name} must be a"):
            call()
