"""Whole models: a training step and inference, from the batch that torchvision's own transform hands on."""

import copy
from dataclasses import replace

import torch
from inputs import OURS, THEIRS, Sides, assert_same_boxes, assert_same_detections, picture, scenes
from measure import DEVICE
from peers import AroundOurBackbone, same_weights, torchvision_model, torchvision_step
from torchvision.models.detection.image_list import ImageList

from frcnn_common.data import frcnn_collate_fn
from frcnn_common.engine import Trainer
from frcnn_common.recipes import RECIPES

CHANNELS_LAST = "torchvision, channels_last"


def _models(height, width, batch, trainable_layers=1):
    """Both models, the transformed batch, and what they agree on."""
    images = [picture(height, width) for _ in range(batch)]
    peer, batch = torchvision_model(images, trainable_layers)
    model = same_weights(peer, trainable_layers)
    with torch.no_grad():
        detections, proposals = model.eval()(batch.tensors, image_sizes=batch.image_sizes)
        their_detections, their_proposals, _ = torchvision_step(peer.eval(), batch)
    for ours, theirs in zip(proposals, their_proposals, strict=True):
        assert_same_boxes(ours, theirs, "proposals")
    assert_same_detections(detections, their_detections)
    found = {
        "input": list(batch.tensors.shape),
        "proposals": [len(p) for p in proposals],
        "detections": [len(d["boxes"]) for d in detections],
        "classes detected": len(torch.cat([d["labels"] for d in detections]).unique()),
    }
    return model, peer, batch, found


def inference(height, width, batch=1, autocast=None):
    model, peer, batch, found = _models(height, width, batch)
    cl_peer, cl_batch = _channels_last(peer, batch)

    def ours():
        with torch.no_grad(), half(autocast):
            model(batch.tensors, image_sizes=batch.image_sizes)

    def theirs(peer=peer, batch=batch):
        with torch.no_grad(), half(autocast):
            torchvision_step(peer, batch)

    return Sides({OURS: ours, THEIRS: theirs, CHANNELS_LAST: lambda: theirs(cl_peer, cl_batch)}, found)


def _channels_last(peer, batch):
    tensors = batch.tensors.to(memory_format=torch.channels_last)
    return copy.deepcopy(peer).to(memory_format=torch.channels_last), ImageList(tensors, batch.image_sizes)


def training(trainable_layers, batch=2, side=400, autocast=None):
    """Forward, backward and a step of SGD; `autocast` names a dtype."""
    model, peer, batch, found = _models(side, side, batch, trainable_layers)
    targets = scenes(len(batch.tensors), side)
    _assert_same_training_proposals(model.train(), peer.train(), batch)
    cl_peer, cl_batch = _channels_last(peer, batch)

    def ours():
        return model(batch.tensors, targets, image_sizes=batch.image_sizes)

    def theirs(peer=peer, batch=batch):
        return torchvision_step(peer, batch, targets)[2]

    found["losses ours"], found["losses torchvision"] = (
        {name: round(loss.item(), 4) for name, loss in work().items()} for work in (ours, theirs)
    )
    work = {
        OURS: _step(model, ours, autocast),
        THEIRS: _step(peer, theirs, autocast),
        CHANNELS_LAST: _step(cl_peer, lambda: theirs(cl_peer, cl_batch), autocast),
    }
    return Sides(work, found)


def _step(model, losses, autocast):
    """A tiny learning rate: the hundredth step works on the same numbers as the first."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def step():
        with half(autocast):
            total = sum(losses().values())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def tiny_training():
    """A step of the small recipe as `Trainer` makes it, on one thread; the peer stands around the same backbone."""
    torch.set_num_threads(1)
    recipe = replace(RECIPES["openmoji-tiny"], lr=1e-6)
    batch = frcnn_collate_fn(list(recipe.dataset("train", recipe.batch_size)))
    model = recipe.model()
    peer = AroundOurBackbone(model, recipe)
    trainers = {OURS: Trainer(model.train(), recipe), THEIRS: Trainer(peer.train(), recipe)}
    losses = {name: trainer.train_step([batch])["loss"] for name, trainer in trainers.items()}
    assert abs(losses[OURS] - losses[THEIRS]) < 0.1 * losses[THEIRS], losses  # other samples, other conventions
    work = {name: lambda trainer=trainer: trainer.train_step([batch]) for name, trainer in trainers.items()}
    return Sides(work, {f"loss {name}": round(loss, 4) for name, loss in losses.items()})


@torch.no_grad()
def _assert_same_training_proposals(model, peer, batch):
    features = peer.backbone(batch.tensors)
    targets = scenes(len(batch.tensors), 400)
    theirs, _ = peer.rpn(batch, features, targets)
    size = tuple(batch.tensors.shape[-2:])
    ours, _ = model.rpn(list(features.values()), size, targets, image_sizes=batch.image_sizes)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_boxes(a, b, "proposals in training")


def half(name):
    """Autocast to a dtype by its name; nothing without one. Results are compared before, in float32."""
    dtype = getattr(torch, name) if name else None
    return torch.autocast(DEVICE.type, dtype=dtype, enabled=name is not None)


def compiled():
    """Ours with `torch.compile` on the backbone and pyramid, against ours without."""
    model, _, batch, found = _models(400, 400, 1)
    plain = model.backbone, model.fpn
    faster = [torch.compile(part) for part in plain]

    def run(parts):
        model.backbone, model.fpn = parts
        with torch.no_grad():
            model(batch.tensors, image_sizes=batch.image_sizes)

    return Sides({OURS: lambda: run(faster), "ours, not compiled": lambda: run(plain)}, found)
