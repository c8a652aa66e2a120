"""What is measured: the rows of the table with their bars, the ideas, and the curves."""

from dataclasses import dataclass


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    builder : str
        `module.function` that builds both sides and asserts that they agree.
    args : tuple
        What it is called with.
    time : float, optional
        Bar on the ratio ours / torchvision of wall time. Every row that is measured by default has one.
    target : float, optional
        A second, lower bar that is wanted but not required.
    cpu, memory : float, optional
        Bars on the ratios of CPU time and of peak memory.
    peer : str
        The side that ours is divided by.
    turns : int
        How many times each side is measured, at least.
    alone : bool
        Whether each side is measured in processes of its own, of ten steps each, that take turns.
    """

    name: str
    title: str
    builder: str
    args: tuple = ()
    time: float | None = None
    target: float | None = None
    cpu: float | None = None
    memory: float | None = None
    peer: str = "torchvision"
    turns: int = 7
    alone: bool = False


ROWS = [
    Row(
        "train-frozen",
        "training and SGD step, 400 px, batch 2, stem, layers 1–3 frozen",
        "models.training",
        (1,),
        time=0.75,
        cpu=0.8,
        memory=1.0,
    ),
    Row(
        "train-frozen-alone",
        "the same, each side in processes of its own",
        "models.training",
        (1,),
        time=0.8,
        cpu=0.8,
        memory=1.0,
        turns=2,
        alone=True,
    ),
    Row(
        "train-tiny",
        "training step of `openmoji-tiny`, batch 8, one thread",
        "models.tiny_training",
        time=1.0,
        memory=1.0,
    ),
    Row(
        "train-all",
        "training and SGD step, 400 px, batch 2, all stages trained",
        "models.training",
        (5,),
        time=0.95,
        memory=1.0,
    ),
    Row("infer-400", "inference, 400 px, batch 1", "models.inference", (400, 400), time=1.0, target=0.85),
    Row("infer-800", "inference, 800 × 1216, batch 1", "models.inference", (800, 1216), time=1.0, target=0.85),
    Row("roi-forward", "ROIAlign, 512 regions × 256 channels, forward", "operators.roi_align", (), time=0.85),
    Row(
        "roi-both",
        "ROIAlign, 512 regions × 256 channels, forward and backward",
        "operators.roi_align",
        (512, True),
        time=0.70,
    ),
    Row(
        "roi-both-last",
        "ROIAlign, maps in channels_last, forward and backward",
        "operators.roi_align",
        (512, True, True),
        time=0.7,
    ),
    Row("nms-scattered", "NMS, 2,000 scattered boxes", "operators.scattered", (2000,), time=1.0),
    Row(
        "nms-clustered",
        "NMS, 2,000 boxes around 25 things, a fifth survive",
        "operators.overlapping",
        ("clustered", 2000),
        time=1.0,
    ),
    Row(
        "nms-pile",
        "NMS, 2,000 boxes around one thing, a fifth survive",
        "operators.overlapping",
        ("pile", 2000),
        time=1.0,
    ),
    Row("nms-10000", "NMS, 10,000 scattered boxes", "operators.scattered", (10000,), time=1.0),
    Row("rpn", "RPN, features to proposals, batch 4", "operators.proposals", time=0.8),
    Row(
        "rpn-same-layout",
        "RPN, features to proposals, both given NCHW maps",
        "operators.proposals",
        (4, True, True),
        time=1.0,
    ),
    Row("rpn-behind", "RPN, its head's output to proposals, batch 4", "operators.proposals", (4, False), time=0.8),
    Row("rpn-losses", "RPN, target assignment and losses, batch 4", "operators.rpn_losses", time=0.8),
    Row("post", "post-processing, 1,000 proposals × 80 classes, 2,000 pairs", "operators.postprocess", time=0.8),
    Row(
        "import",
        "import frcnn_common, against import torch",
        "pipeline.imports",
        time=1.15,
        peer="import torch",
        turns=11,
    ),
    Row(
        "stream",
        "COCOStreamDataset, against `datasets` alone",
        "pipeline.stream",
        time=1.0,
        peer="datasets alone",
    ),
    Row(
        "stream-skip",
        'COCOStreamDataset, `on_bad_sample="skip"`, against `datasets` alone',
        "pipeline.stream",
        ("skip",),
        time=round(1 / 0.95, 3),
        peer="datasets alone",
    ),
    Row(
        "scenes",
        "drawing scenes, against Pillow's calls for them alone",
        "pipeline.scenes",
        time=2.0,
        peer="Pillow alone",
    ),
    Row(
        "detect",
        "`frcnn detect`, eight pictures at once, against one at a time",
        "pipeline.detecting",
        time=round(1 / 1.3, 3),
        peer="one at a time",
    ),
    Row(
        "evaluate",
        "`frcnn evaluate`, eight pictures at once, against one at a time",
        "pipeline.evaluating",
        time=round(1 / 1.3, 3),
        peer="one at a time",
    ),
]

CUDA_ROWS = [
    Row(f"{name}-{short}", f"{title}, autocast to {dtype}", builder, (*args, dtype))
    for short, dtype in (("bf16", "bfloat16"), ("fp16", "float16"))
    for name, title, builder, args in (
        ("train-frozen", "training step, 400 px, batch 2, layers 1–3 frozen", "models.training", (1, 2, 400)),
        ("infer-800", "inference, 800 × 1216, batch 1", "models.inference", (800, 1216, 1)),
    )
]
COMPILED = Row("compiled", "inference, 400 px: torch.compile", "models.compiled", peer="ours, not compiled")


@dataclass
class Idea:
    """One idea, from the form before it to the library's: `builder` gives the forms in this order."""

    name: str
    title: str
    builder: str
    args: tuple = ()


IDEAS = [
    Idea("roi-rows", "ROIAlign as a weighted sum of rows", "before.roi_align"),
    Idea("nms", "NMS without a step for each box", "before.suppression", (2000,)),
    Idea("nms-many", "NMS of very many boxes", "before.suppression", (10000,)),
    Idea("fold", "batch norm inside the convolution", "before.batch_norm"),
    Idea("layout", "channels next to each other in memory", "before.layout"),
    Idea("decode-late", "decode the proposals that can win", "before.proposals"),
    Idea("decode-few", "decode the classes that can win", "before.postprocess"),
]


@dataclass
class Curve:
    """Cost against one number. `limit` is the exponent that the work itself has, `why` says of what."""

    name: str
    title: str
    axis: str
    builder: str
    calls: dict  # what stands on the axis: the builder's arguments
    limit: float
    why: str
    memory: bool = False


SIDES = (256, 400, 640, 1024)
BOXES = (500, 1000, 2000, 5000, 10000, 20000)
CURVES = [
    Curve(
        "side",
        "inference",
        "side of the image, pixels",
        "models.inference",
        {s: (s, s) for s in SIDES},
        limit=2,
        why="convolutions, in proportion to the pixels",
    ),
    Curve(
        "batch",
        "inference, 256 px",
        "images in the batch",
        "models.inference",
        {b: (256, 256, b) for b in (1, 2, 4, 8, 16)},
        limit=1,
        why="the same work for each image",
    ),
    Curve(
        "regions",
        "ROIAlign and box head",
        "regions",
        "operators.box_head",
        {n: (n,) for n in (64, 256, 1024, 2048, 4096)},
        limit=1,
        why="the first fully connected layer, in proportion to the regions",
    ),
    Curve(
        "boxes-scattered",
        "NMS, scattered boxes",
        "boxes",
        "operators.suppression",
        {n: ("scattered", n) for n in BOXES},
        limit=2,
        why="pairs of boxes: nearly all survive, and each may suppress any other",
        memory=True,
    ),
    Curve(
        "boxes-clustered",
        "NMS, clustered boxes",
        "boxes",
        "operators.suppression",
        {n: ("clustered", n) for n in BOXES},
        limit=2,
        why="pairs of a box and a survivor",
        memory=True,
    ),
    Curve(
        "classes",
        "post-processing",
        "classes",
        "operators.postprocess",
        {c: (c,) for c in (10, 30, 80, 200, 500, 1000)},
        limit=1,
        why="softmax and threshold over regions × classes",
    ),
]

TRAINING_MEMORY = {"stem and layers 1–3 frozen": 1, "all stages trained": 5}
BATCHES = (1, 2, 4)
