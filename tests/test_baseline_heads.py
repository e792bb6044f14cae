"""Head training of each baseline against a slow, plain reference: one head, one image at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from toy import ToyEncoder, toy_cohort
from ude_core.baselines.balanced import balanced_minibatches
from ude_core.baselines.base import DiseaseTask, HeadProblem
from ude_core.baselines.batch_sampling import BatchSampling
from ude_core.baselines.bias_adv import BiasAdv, Weights
from ude_core.baselines.group_dro import GroupDro, GroupWeights, hold_out
from ude_core.heads import HeadTask, LinearHeads, Minibatch, shuffled_minibatches
from ude_core.noise import to_pixels
from ude_core.types import HeadConfig

CONFIG = HeadConfig(learning_rate=0.02, weight_decay=0.05, epochs=5, batch_size=16, init_std=0.02)
COHORT = toy_cohort(80, seed=2)
EMBEDDINGS = ToyEncoder().encode(to_pixels(COHORT.images))
ADV = BiasAdv(
    power=0.7, radius=0.03, step=0.01, steps=4, every=2, weight=0.5, adversarial_weight=0.4
)


def task(disease: str, rows: np.ndarray) -> DiseaseTask:
    head = HeadTask(rows, COHORT.labels[disease][rows])
    return DiseaseTask(disease, head, COHORT.attribute[rows], COHORT.patients[rows])


def problem(seed: int = 4) -> HeadProblem:
    tasks = [task("edema", np.arange(0, 60)), task("edema", np.arange(20, 74))]
    rng = torch.Generator().manual_seed(seed)
    return HeadProblem(EMBEDDINGS, tasks, CONFIG, rng)


def started(heads: int, rng: torch.Generator) -> torch.Tensor:
    std = CONFIG.init_std
    empty = torch.empty(heads, EMBEDDINGS.shape[1], 2)
    return torch.nn.init.trunc_normal_(empty, std=std, a=-2 * std, b=2 * std, generator=rng)


class Plain:
    """One linear head under torch's own AdamW and autograd."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight.clone().requires_grad_()
        self.bias = torch.zeros(2, requires_grad=True)
        self.solver = torch.optim.AdamW(
            [self.weight, self.bias], lr=CONFIG.learning_rate, weight_decay=CONFIG.weight_decay
        )

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings @ self.weight + self.bias

    def descend(self, loss: torch.Tensor) -> None:
        self.solver.zero_grad()
        loss.backward()
        self.solver.step()


def test_batch_sampling_is_plain_training_on_balanced_minibatches() -> None:
    ours = problem()
    found = BatchSampling(balance="attribute").train(ours, COHORT.images, ToyEncoder())
    plain = problem()
    heads = [Plain(weight) for weight in started(2, plain.rng)]
    groups = [one.attribute for one in plain.tasks]
    for _ in range(CONFIG.epochs):
        for batch in balanced_minibatches(plain.head_tasks, groups, 16, plain.rng):
            for index, head in enumerate(heads):
                head.descend(cross_entropy(head(EMBEDDINGS[batch.row[index]]), batch.target[index]))
    for index, head in enumerate(heads):
        assert torch.allclose(found.weight[index], head.weight, atol=1e-4)


@pytest.mark.parametrize("step", [0.01, 2.0])
def test_group_dro_is_the_algorithm_by_hand(step: float) -> None:
    found = GroupDro(step=step, held_out=0.25).train(problem(), COHORT.images, ToyEncoder())
    plain = problem()
    held = [hold_out(one.patients, one.cells, 0.25, plain.rng) for one in plain.tasks]
    kept = [
        HeadTask(one.head.rows[~out], one.head.targets[~out])
        for one, out in zip(plain.tasks, held, strict=True)
    ]
    cells = [one.cells[~out] for one, out in zip(plain.tasks, held, strict=True)]
    heads = [Plain(weight) for weight in started(2, plain.rng)]
    q = [dict.fromkeys(range(4), 0.25) for _ in heads]
    best: list[tuple[float, float, torch.Tensor]] = [(-1.0, -1.0, torch.empty(0))] * 2
    for _ in range(CONFIG.epochs):
        for batch in balanced_minibatches(kept, cells, 16, plain.rng):
            for index, head in enumerate(heads):
                losses = {}
                for group in range(4):
                    of_group = set(kept[index].rows[cells[index] == group].tolist())
                    mine = [i for i, row in enumerate(batch.row[index].tolist()) if row in of_group]
                    logits = head(EMBEDDINGS[batch.row[index][mine]])
                    losses[group] = cross_entropy(logits, batch.target[index][mine])
                raised = {g: q[index][g] * np.exp(step * losses[g].item()) for g in losses}
                q[index] = {g: value / sum(raised.values()) for g, value in raised.items()}
                head.descend(sum(q[index][g] * losses[g] for g in losses))  # type: ignore[arg-type]
        for index, head in enumerate(heads):
            one, out = plain.tasks[index], held[index]
            right = (head(EMBEDDINGS).argmax(1).numpy()[one.head.rows] == one.head.targets)[out]
            by_group = [right[one.cells[out] == g].mean() for g in range(4)]
            score = (min(by_group), float(np.mean(by_group)))
            if score > best[index][:2]:
                best[index] = (*score, head.weight.detach().clone())
    for index in range(2):
        assert torch.allclose(found.weight[index], best[index][2], atol=1e-4)


def test_a_group_that_is_learnt_worse_weighs_more() -> None:
    tasks = [HeadTask(np.arange(4), np.array([0, 0, 1, 1]))]
    weights = GroupWeights(tasks, [np.array([0, 0, 1, 1])], rows=4, step=1.0)
    batch = Minibatch(torch.arange(4)[None], torch.tensor([[0, 0, 1, 1]]), torch.ones(1, 4))
    probability = torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.8, 0.2]]])
    share = weights(batch, probability)[0]
    easy, hard = 0.5 / 0.9, 0.5 / 0.2  # q·exp(1·L) with L = -log p
    expected = torch.tensor([easy, hard]) / (easy + hard)
    assert torch.allclose(weights.q[0], expected)
    assert torch.allclose(share, expected.repeat_interleave(2) / 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=40), min_size=1, max_size=3),
    st.integers(1, 20),
    st.integers(0, 5),
)
def test_every_minibatch_has_equal_shares_of_every_group(
    groups: list[list[int]], batch_size: int, seed: int
) -> None:
    codes = [np.array(own) for own in groups]
    tasks = [HeadTask(np.arange(len(own)) + 100, own % 2) for own in codes]
    rng = torch.Generator().manual_seed(seed)
    batches = balanced_minibatches(tasks, codes, batch_size, rng)
    assert len(batches) == max(-(-len(own) // batch_size) for own in codes)
    for head, own in enumerate(codes):
        present = np.unique(own)
        share = max(1, batch_size // len(present))
        used = np.zeros(len(own), dtype=int)
        for batch in batches:
            chosen = batch.row[head][batch.present[head] > 0].numpy() - 100
            counts = np.bincount(own[chosen], minlength=4)[present]
            assert (counts == share).all()
            assert (batch.target[head][batch.present[head] > 0].numpy() == own[chosen] % 2).all()
            np.add.at(used, chosen, 1)
        for group in present:
            assert np.ptp(used[own == group]) <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(0, 3),
)
def test_whoever_chooses_the_epoch_does_not_train_it(
    images: list[tuple[int, int]], seed: int
) -> None:
    patients, cells = (np.array(column) for column in zip(*images, strict=True))
    held = hold_out(patients, cells, 0.25, torch.Generator().manual_seed(seed))
    assert not set(patients[held]) & set(patients[~held])
    assert set(cells[~held]) == set(cells)


def test_each_cell_gives_its_share_where_patients_allow() -> None:
    cells = np.repeat(np.arange(4), [20, 2, 40, 1])
    held = hold_out(np.arange(len(cells)), cells, 0.25, torch.Generator().manual_seed(1))
    assert np.bincount(cells[held], minlength=4).tolist() == [5, 1, 10, 0]


def test_the_weights_of_bias_adv_are_the_gradients_of_its_losses() -> None:
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 6, 2, generator=rng, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, 2, (1, 3), generator=rng).repeat(2, 2)
    present = torch.ones(2, 6, dtype=torch.float64)
    present[0, 3:] = 0
    probability = torch.softmax(logits, -1)
    own = probability.gather(-1, target[..., None])[..., 0]
    biased = ((1 - own[0, :3] ** 0.7) / 0.7).mean()
    loss_b, loss_d = -own[0, :3].log(), -own[1, :3].log()
    difficulty = (loss_b / (loss_b + loss_d)).detach()
    debiased = (difficulty * loss_d - 0.4 * (1 - difficulty) * own[1, 3:].log()).mean()
    (expected,) = torch.autograd.grad(biased + debiased, logits)
    batch = Minibatch(torch.zeros_like(target), target, present)
    weights = Weights(power=0.7, adversarial_weight=0.4)(batch, probability.detach())
    residual = probability.detach() - torch.nn.functional.one_hot(target, 2)
    assert torch.allclose(residual * weights[..., None], expected)


def test_an_attacked_image_stays_in_the_ball_and_turns_the_biased_head() -> None:
    rng = torch.Generator().manual_seed(5)
    biased, debiased = (
        LinearHeads(torch.randn(2, 24, 2, generator=rng), torch.zeros(2, 2)) for _ in range(2)
    )
    pixels = to_pixels(COHORT.images[:12])
    labels = torch.as_tensor(COHORT.labels["edema"][:12])
    trains = torch.tensor([[1.0] * 8 + [0.0] * 4, [0.0] * 4 + [1.0] * 8])
    attacked = ADV.attack(pixels, labels, trains, ToyEncoder(), biased=biased, debiased=debiased)
    assert float((attacked - pixels).abs().max()) <= ADV.radius + 1e-6
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    for image in range(12):
        x = pixels[image : image + 1].clone()
        which = [h for h in range(2) if trains[h, image]]
        for _ in range(ADV.steps):
            x = x.detach().requires_grad_()
            embedding = ToyEncoder().encode(x)
            gain = sum(
                cross_entropy(biased.logits(embedding)[h], labels[image : image + 1])
                - 0.5 * cross_entropy(debiased.logits(embedding)[h], labels[image : image + 1])
                for h in which
            )
            (slope,) = torch.autograd.grad(gain, x)
            x = x + 0.01 * slope.sign()
            x = torch.minimum(torch.maximum(x, pixels[image] - 0.03), pixels[image] + 0.03)
            x = x.clamp(0, 1)
        assert torch.allclose(attacked[image], x.detach()[0], atol=1e-6)


def test_bias_adv_is_the_algorithm_one_head_at_a_time() -> None:
    found = ADV.train(problem(), COHORT.images, ToyEncoder())
    plain = problem()
    starts = started(4, plain.rng)
    biased, debiased = [Plain(w) for w in starts[:2]], [Plain(w) for w in starts[2:]]
    copies = EMBEDDINGS
    for epoch in range(CONFIG.epochs):
        if epoch and epoch % ADV.every == 0:
            rows = np.arange(74)  # the union of both draws
            trains = torch.zeros(2, 74)
            for index, one in enumerate(plain.tasks):
                trains[index, torch.as_tensor(one.head.rows)] = 1
            held = [
                LinearHeads(
                    torch.stack([h.weight.detach() for h in some]),
                    torch.stack([h.bias.detach() for h in some]),
                )
                for some in (biased, debiased)
            ]
            attacked = ADV.attack(
                to_pixels(COHORT.images[rows]),
                torch.as_tensor(COHORT.labels["edema"][rows]),
                trains,
                ToyEncoder(),
                biased=held[0],
                debiased=held[1],
            )
            copies = ToyEncoder().encode(attacked)
        for batch in shuffled_minibatches(plain.head_tasks, CONFIG.batch_size, plain.rng):
            for index in range(2):
                kept = batch.present[index] > 0
                if not kept.any():
                    continue
                rows_, target = batch.row[index][kept], batch.target[index][kept]
                clean = EMBEDDINGS[rows_]
                b, d = biased[index], debiased[index]
                loss_b = cross_entropy(b(clean), target, reduction="none")
                loss_d = cross_entropy(d(clean), target, reduction="none")
                difficulty = (loss_b / (loss_b + loss_d)).detach()
                attacked_loss = cross_entropy(d(copies[rows_]), target, reduction="none")
                loss = (difficulty * loss_d + 0.4 * (1 - difficulty) * attacked_loss).mean()
                b.descend(((1 - torch.exp(-loss_b) ** 0.7) / 0.7).mean())
                d.descend(loss)
    for index, head in enumerate(debiased):
        assert torch.allclose(found.weight[index], head.weight, atol=1e-3)


def test_attacks_cost_their_steps_and_an_embedding() -> None:
    assert ADV.training_queries(100, epochs=5) == 2 * 100 * 5  # attacks after epochs 2 and 4
    assert replace(ADV, every=5).training_queries(100, epochs=5) == 0
