"""One real training step with pseudo neighbours against the papers' formulas, written out by hand in float64."""

from __future__ import annotations

import math
import warnings
from collections import deque

import pytest
import torch

from solo_gps.guide.switch import activate
from solo_gps.hosts.detect import detect_host

pytestmark = pytest.mark.host
HOST = detect_host()
if HOST.generation != "1.0.6":
    pytest.skip("on 1.0.2 the embeddings never reach the method's step", allow_module_level=True)
ALPHA, QUEUE, BATCH = 0.3, 20, 8


class Seen:
    """A method, and what its step saw and returned in the last of a few steps."""

    def __init__(self, cfg, steps):
        self.outs, self.entries = [], {}
        with warnings.catch_warnings(), activate(cfg):
            warnings.simplefilter("ignore")
            cfg = HOST.complete(cfg)
            HOST.lightning.seed_everything(3)
            self.model = HOST.build_method(cfg, HOST.methods[cfg.method]).train()
            self.start = {name: value.clone() for name, value in self.model.named_buffers()}
            done = self.model.pnn_forward_done
            self.model.pnn_forward_done = lambda step: (self._keep(step), done(step))
            self.images = []
            for batch in [*HOST.build_train_loader(cfg)][:steps]:
                self.images.append(batch[0].tolist())
                self.loss = self.model.training_step(batch, 0)
            self.loss.backward()

    def _keep(self, step):
        for name in ("z", "p"):
            for tensor in step.outs.get(name, []):
                tensor.retain_grad()
        self.outs.append(dict(step.outs))

    def last(self, name):
        return [tensor.detach().double() for tensor in self.outs[-1][name]]

    def own_loss(self):
        return float(self.loss.detach()) - float(self.outs[-1]["loss"].detach())

    def gradients(self, name):
        return [tensor.grad.double() for tensor in self.outs[-1][name]]


def see(recipe, method, *, steps=4, **kwargs):
    cfg = recipe(method, flip=0.5, batch_size=BATCH, method_kwargs=kwargs)
    cfg.sampler = {"pnn": {"alpha": ALPHA, "beta": 0.0} | ({} if method == "nnclr" else {"queue_size": QUEUE})}
    return Seen(cfg, steps)


def support(seen, entry):
    """The keys of view 0 of all steps but the last, the last QUEUE of them."""
    keys = deque(maxlen=QUEUE)
    for outs in seen.outs[:-1]:
        keys.extend(outs[entry][0].detach().double())
    return keys


def pseudo(z, rows, *, sphere):
    """For each vector of z: its nearest row, and the pseudo neighbour on the way there."""
    made, chosen = [], []
    for vector in z:
        if sphere:
            distance = [1 - torch.dot(vector, row) / (vector.norm() * row.norm()) for row in rows]
        else:
            distance = [((vector - row) ** 2).sum() for row in rows]
        chosen.append(min(range(len(rows)), key=distance.__getitem__))
        neighbour = rows[chosen[-1]]
        if sphere:
            neighbour = neighbour / neighbour.norm() * vector.norm()
        mean = vector + (1 - ALPHA) * (neighbour - vector)
        radius = ALPHA * vector.norm() + (1 - ALPHA) * neighbour.norm()
        made.append(mean / mean.norm() * radius)
    return torch.stack(made), chosen


def check(seen, losses, leaves, entry):
    """The step's loss is the mean of the passes, the gradient that of their sum."""
    assert seen.own_loss() == pytest.approx(float(sum(losses).detach()) / len(losses), rel=2e-4)
    sum(losses).backward()
    for leaf, gradient in zip(leaves, seen.gradients(entry), strict=True):
        torch.testing.assert_close(gradient, leaf.grad, rtol=2e-3, atol=1e-5 * float(leaf.grad.abs().max()) + 1e-7)


def mirrored(seen, loss, *, sphere):
    z = [view.requires_grad_() for view in seen.last("z")]
    rows = list(support(seen, "z"))
    made = [pseudo(view.detach(), rows, sphere=sphere)[0] for view in z]
    check(seen, [loss(made[0], z[1]), loss(z[0], made[1])], z, "z")


def test_simclr(recipe):
    """NT-Xent, https://arxiv.org/abs/2002.05709, equation 1."""

    def nt_xent(one, two, temperature=0.2):
        z, total = torch.cat([one, two]), 0.0
        unit = z / z.norm(dim=1, keepdim=True)
        for i in range(2 * BATCH):
            similar = [torch.dot(unit[i], unit[k]) / temperature for k in range(2 * BATCH)]
            others = torch.stack([similar[k] for k in range(2 * BATCH) if k != i])
            total = total - (similar[(i + BATCH) % (2 * BATCH)] - others.exp().sum().log())
        return total / (2 * BATCH)

    mirrored(see(recipe, "simclr"), nt_xent, sphere=True)


def test_vicreg(recipe):
    """Variance, invariance, covariance, https://arxiv.org/abs/2105.04906, equations 1 to 6."""

    def vicreg(one, two):
        spread = covariance = 0.0
        for z in (one, two):
            n, d = z.shape
            centred = z - z.mean(0)
            matrix = centred.T @ centred / (n - 1)
            spread = spread + sum(torch.relu(1 - torch.sqrt(matrix[j, j] + 1e-4)) for j in range(d)) / d
            covariance = covariance + sum(matrix[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
        return 25 * ((one - two) ** 2).mean() + 25 * spread + covariance

    mirrored(see(recipe, "vicreg"), vicreg, sphere=False)


def test_barlow_twins(recipe):
    """Cross-correlation, https://arxiv.org/abs/2103.03230, equations 1 and 2; standardised as batch norm does."""

    def barlow(one, two, lamb=0.0051, scale=0.024):
        a, b = ((z - z.mean(0)) / torch.sqrt(z.var(0, unbiased=False) + 1e-5) for z in (one, two))
        matrix = a.T @ b / len(a)
        d = len(matrix)
        return scale * sum((1 - matrix[i, j]) ** 2 if i == j else lamb * matrix[i, j] ** 2 for i in range(d) for j in range(d))

    mirrored(see(recipe, "barlow_twins"), barlow, sphere=False)


def cosine(a, b):
    return torch.stack([torch.dot(x, y) / (x.norm() * y.norm()) for x, y in zip(a, b, strict=True)])


def test_byol(recipe):
    """Twice one minus the cosine, both ways, https://arxiv.org/abs/2006.07733, equation 2."""
    seen = see(recipe, "byol")
    p = [view.requires_grad_() for view in seen.last("p")]
    target = [pseudo(view, list(support(seen, "momentum_z")), sphere=True)[0] for view in seen.last("momentum_z")]
    check(seen, [(2 - 2 * cosine(p[1], target[0])).mean() + (2 - 2 * cosine(p[0], target[1])).mean()], p, "p")


def info_nce(queries, positives, negatives, temperature):
    """One query at a time: its positive against its own list of negatives."""
    total = 0.0
    for query, positive, others in zip(queries, positives, negatives, strict=True):
        logits = torch.stack([torch.dot(query, positive), *(torch.dot(query, other) for other in others)]) / temperature
        total = total - (logits[0] - logits.exp().sum().log())
    return total / len(queries)


def test_mocov2plus(recipe):
    """InfoNCE with a queue for each view, https://arxiv.org/abs/2003.04297, without the rows of the neighbours' images."""
    rows, steps = 64, 4
    seen = see(recipe, "mocov2plus", steps=steps, queue_size=rows)
    keys = seen.last("momentum_z")
    held, owners = support(seen, "momentum_z"), deque(maxlen=QUEUE)
    queue = [list(seen.start["queue"][view].double().T) for view in (0, 1)]
    shows = [None] * rows
    for step in range(steps - 1):
        owners.extend(seen.images[step])
        for item in range(BATCH):
            shows[step * BATCH + item] = seen.images[step][item]
            for view in (0, 1):
                queue[view][step * BATCH + item] = seen.outs[step]["momentum_z"][view][item].double()
    made, chosen = zip(*(pseudo(view, list(held), sphere=True) for view in keys), strict=True)
    hidden = {owners[row] for view in chosen for row in view}
    assert hidden
    left = [[key for key, image in zip(queue[view], shows, strict=True) if image not in hidden] for view in (0, 1)]
    assert len(left[0]) < rows
    q = [view.requires_grad_() for view in seen.last("z")]
    losses = [info_nce(q[1 - view], made[view], [left[view]] * BATCH, 0.2) for view in (0, 1)]
    check(seen, [sum(losses) / 2], q, "z")
    now = seen.model.queue[:, :, (steps - 1) * BATCH : steps * BATCH].double()
    torch.testing.assert_close(now, torch.stack(keys).permute(0, 2, 1))


def test_mocov2plus_keeps_the_neighbours_as_negatives_when_asked(recipe):
    cfg = recipe("mocov2plus", batch_size=BATCH, method_kwargs={"queue_size": 64})
    losses = {}
    for own_queue in ("mask", "keep"):
        cfg.sampler = {"pnn": {"alpha": 0.6, "beta": 0.0, "queue_size": QUEUE, "own_queue": own_queue}}
        losses[own_queue] = Seen(cfg.copy(), 4).own_loss()
    # The same keys and queries; a negative that is near the positive only ever adds to the loss.
    assert losses["keep"] > losses["mask"]


def test_ressl(recipe):
    """Relations to the queue, https://arxiv.org/abs/2107.09282, equations 3 to 6, without the neighbours' rows."""
    rows, steps = 64, 4
    seen = see(recipe, "ressl", steps=steps, queue_size=rows)
    key, query = seen.last("momentum_z")[1], seen.last("z")[0].requires_grad_()
    held, owners = support(seen, "momentum_z"), deque(maxlen=QUEUE)
    queue, shows = list(seen.start["queue"].double()), [None] * rows
    for step in range(steps - 1):
        owners.extend(seen.images[step])
        for item in range(BATCH):
            shows[step * BATCH + item] = seen.images[step][item]
            queue[step * BATCH + item] = seen.outs[step]["momentum_z"][1][item].double()
    made, chosen = pseudo(key, list(held), sphere=True)
    hidden = {owners[row] for row in chosen}
    left = torch.stack([row for row, image in zip(queue, shows, strict=True) if image not in hidden])
    teacher, student = torch.softmax(made @ left.T / 0.04, 1), torch.log_softmax(query @ left.T / 0.1, 1)
    loss = -(teacher * student).sum(1).mean()
    assert seen.own_loss() == pytest.approx(float(loss.detach()), rel=2e-4)
    loss.backward()
    torch.testing.assert_close(seen.outs[-1]["z"][0].grad.double(), query.grad, rtol=2e-3, atol=1e-7)
    now = seen.model.queue[(steps - 1) * BATCH : steps * BATCH].double()
    torch.testing.assert_close(now, key)


def test_nnclr(recipe):
    """pNNCLR, https://arxiv.org/abs/2308.06983: InfoNCE of the pseudo neighbour with the other view's prediction."""
    seen = SeenNNCLR(recipe)
    p = [view.requires_grad_() for view in seen.predictions]
    made = [pseudo(view, list(seen.queue), sphere=True)[0] for view in seen.keys]
    unit = [view / view.norm(dim=1, keepdim=True) for view in p]
    losses = []
    for view in (0, 1):
        others = unit[1 - view]
        negatives = [[others[k] for k in range(BATCH) if k != i] for i in range(BATCH)]
        losses.append(info_nce(made[view], others, negatives, 0.2) / 2)
    assert seen.own_loss == pytest.approx(float(sum(losses).detach()), rel=2e-4)
    sum(losses).backward()
    for leaf, gradient in zip(p, seen.gradients, strict=True):
        torch.testing.assert_close(gradient, leaf.grad, rtol=2e-3, atol=1e-7)


class SeenNNCLR:
    """NNCLR has no tap: its predictions and keys are taken from its own forward."""

    def __init__(self, recipe, queue=16, steps=4):
        cfg = recipe("nnclr", flip=0.5, batch_size=BATCH, sampler={"pnn": {"alpha": ALPHA, "beta": 0.0}})
        outs = []
        with warnings.catch_warnings(), activate(cfg):
            warnings.simplefilter("ignore")
            cfg = HOST.complete(cfg)
            HOST.lightning.seed_everything(3)
            model = HOST.build_method(cfg, HOST.methods["nnclr"]).train()
            model.register_forward_hook(lambda *args: outs.append(args[-1]))
            rows, pointer = list(model.queue.clone().double()), 0
            for batch in [*HOST.build_train_loader(cfg)][:steps]:
                if outs:
                    for item, key in enumerate(outs[0]["z"].detach().double()):
                        rows[(pointer + item) % queue] = key
                    pointer += BATCH
                outs.clear()
                loss = model.training_step(batch, 0)
            for out in outs:
                out["p"].retain_grad()
            self._backward(loss, model)
        self.queue = rows
        self.keys = [out["z"].detach().double() for out in outs]
        self.predictions = [out["p"].detach().double() for out in outs]
        self.gradients = [out["p"].grad.double() for out in outs]
        self.own_loss = float(loss.detach()) - float(sum(out["loss"].detach() for out in outs)) / 2
        assert len(rows) == queue
        assert not math.isnan(self.own_loss)

    @staticmethod
    def _backward(loss, model):
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
