"""Membership inference: whether a student gives away which real images its training set comes from.

Members are real training images, whatever of them the student's set was made of; non-members are test images. Students
of distilled sets stand beside those of real ones. The attacks are those of `raydd.evaluation.probes.attacks`.

The likelihood ratio needs shadow networks, whose training sets the attacker drew. It knows network, recipe, step size
and size of the set, not the distiller: shadows are trained on real images with hard labels out of a pool of training
and test images, each shadow by itself. For students of all the data they are random halves of the pool, two and two
one another's rest, so that every image is in half of them: the attack is online. For students of other sets they are
random subsets with as many images of each class as the distilled set has, at most half of the pool's; hardly one has a
given image, and the attack is offline. All sets but all the data share these.

A false positive rate of 0.1 % cannot be told with fewer than 1,000 test images: it is then that of none.

Letters: N targets, A of them members; P images of the pool, K classes, S shadows, M images of a set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from raydd.core.errors import ConfigError, RunError
from raydd.core.keyed_random import Key, permutation
from raydd.core.progress import Progress
from raydd.data.images import SelectedImages
from raydd.data.prepared import PreparedData
from raydd.evaluation.probes import attacks
from raydd.evaluation.probes.probe import Answer, Asker, Question, View, first_students
from raydd.evaluation.students.training import TrainingSet, training_on
from raydd.evaluation.students.trials import Trial
from raydd.ingredients.setting import build_seeded
from raydd.ingredients.view_labels import HardLabels
from raydd.training.fit import Told, fit
from raydd.training.loop import accuracy, predict
from raydd.training.views import ImageViews

_FEWEST = 4
"""Shadows of which every image is outside of two: what a variance takes."""


@dataclass(frozen=True, kw_only=True)
class MembershipConfig(Asker):
    """Membership inference."""

    images: int = 1000
    """At most so many training images, and so many test images, drawn at random, are told apart."""
    shadows: int = 8
    """Networks that the attacker trains for students of all the data, and as many for those of all other sets."""
    pool: int = 2000
    """At most so many training images, and so many test images, among which those to tell apart, are what training
    sets of shadows are drawn from. Shadows for students of all of more data learn from less, in less time: give as many
    as there are for the attack at its strongest."""
    students: int = 3
    """Of each set under each regime of labels, with seeds 0, 1, ..., that are attacked, if there are so many."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, least in (("images", 1), ("shadows", _FEWEST), ("pool", self.images), ("students", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"evaluate.membership.{name}", f"must be at least {least}, is {getattr(self, name)}")

    def preparations(self, trials: Sequence[Trial]) -> list[Question]:
        """The shadows of all questions, each once."""
        return list(dict.fromkeys(shadow for asked in self.questions(trials) for shadow in self._shadows(asked.trial)))

    def prepare(self, question: Question, view: View, progress: Progress) -> Mapping[str, Tensor]:
        """Train a shadow: its `confidence` in the targets, float64 [N], and which of them are `inside` its set, bool.

        Both are empty where training broke off: the attacker does without it.
        """
        trial, pool = question.trial, _Pool.of(view, self)
        own, number = view.training_set(trial), int(question.variant)
        key = view.key.child("membership", "shadows", trial.subject)
        rows_M = (
            halves(key, pool.labels_P, number)
            if trial.subject == "full"
            else subsets(key, pool.labels_P, own.targets.cpu().bincount(minlength=view.data.num_classes), number)
        )
        module = build_seeded(trial.network, view.data, key.child(number, "init")).to(view.device)
        drawn = pool.training_set(rows_M, trial, own, view.device)
        training = training_on(drawn, trial.recipe, [module], [key.child(number)], 0, compiled=False)
        try:
            fit(training, told=Told(progress, [question.work]))
        except RunError:
            return {"confidence": torch.empty(0, dtype=torch.float64), "inside": torch.empty(0, dtype=torch.bool)}
        known_N = attacks.confidence(pool.logits(module), pool.labels_P[pool.targets_N])
        return {"confidence": known_N, "inside": torch.isin(pool.targets_N, rows_M)}

    def questions(self, trials: Sequence[Trial]) -> list[Question]:
        """One for each of the first students of every set, under every regime of labels."""
        return [Question(probe="membership", trial=trial) for trial in first_students(trials, self.students)]

    def answer(self, question: Question, view: View, progress: Progress) -> Answer:
        """Attack a student: AUC, true positives at few false ones, advantage, and its accuracy on either side."""
        trial, pool, test = question.trial, _Pool.of(view, self), view.data.test
        student = view.student(trial, progress)
        logits_NK, labels_N, members = pool.logits(student), pool.labels_P[pool.targets_N], pool.num_members
        observed_N = attacks.confidence(logits_NK, labels_N)
        prepared = [view.prepared(shadow) for shadow in self._shadows(trial)]
        made = [shadow for shadow in prepared if len(shadow["inside"])]
        if not made:
            raise RunError("the training of every shadow network broke off")
        shadows_SN, inside_SN = (torch.stack([shadow[name] for shadow in made]) for name in ("confidence", "inside"))
        ratio = attacks.likelihood_ratio(observed_N, shadows_SN, inside_SN)
        scores = {"loss": attacks.loss_threshold(observed_N), "lira": ratio.scores_N}
        metrics = {
            f"{attack}_{name}": value
            for attack, own_N in scores.items()
            for name, value in asdict(attacks.separation(own_N[:members], own_N[members:])).items()
        }
        metrics |= {
            "member_accuracy": accuracy(logits_NK[:members], labels_N[:members]),
            "non_member_accuracy": accuracy(logits_NK[members:], labels_N[members:]),
            "lira_online": float(ratio.online),
            "shadows": float(len(made)),
            "members": float(members),
            "non_members": float(len(observed_N) - members),
        }
        return Answer(metrics=metrics, test_accuracy=accuracy(predict(student, test.images), test.labels))

    def _shadows(self, trial: Trial) -> list[Question]:
        """What an attack on a trial's student is prepared by."""
        imitated = replace(
            trial,
            subject="full" if trial.subject == "full" else "synthetic",
            draw=0,
            labels="hard",
            recipe=replace(trial.recipe, temperature=1.0),
            student_seed=0,
            measure_every=None,
        )
        return [Question(probe="membership", trial=imitated, variant=str(n)) for n in range(self.shadows)]


def halves(key: Key, labels_P: Tensor, number: int) -> Tensor:
    """Rows of a random half of a pool, class by class, int64 [M]; numbers 2 n and 2 n + 1 are one another's rest."""
    turn, place = divmod(number, 2)
    return torch.cat([order.tensor_split(2)[place] for order in _orders(key.child(turn), labels_P)])


def subsets(key: Key, labels_P: Tensor, sizes_K: Tensor, number: int) -> Tensor:
    """Rows of a random subset of a pool, class by class, int64 [M].

    Consecutive subsets share no image as long as the pool has enough, so that no image is in more than half of them,
    rounded up.

    Args:
        key: of the draws.
        labels_P: classes, int64.
        sizes_K: how many images of each class, int64; at most half of those that the pool has are taken.
        number: which subset.

    Raises:
        RunError: no class of the set has two images in the pool.
    """
    counts_K = labels_P.bincount(minlength=len(sizes_K))
    sizes_K = sizes_K.minimum(counts_K // 2)
    taken_K = sizes_K > 0
    if not taken_K.any():
        raise RunError("no class has two images to train shadow networks on: raise evaluate.membership.pool")
    apart = int((counts_K[taken_K] // sizes_K[taken_K]).min())
    turn, place = divmod(number, apart)
    orders = _orders(key.child(turn), labels_P, len(sizes_K))
    pairs = zip(orders, sizes_K.tolist(), strict=True)
    return torch.cat([order[place * size : (place + 1) * size] for order, size in pairs])


def _orders(key: Key, labels_P: Tensor, num_classes: int = 0) -> list[Tensor]:
    """The rows of each class in random order."""
    classes = range(max(num_classes, int(labels_P.max()) + 1))
    rows = [(labels_P == label).nonzero().squeeze(1) for label in classes]
    return [own[permutation(key.child("class", label), len(own))] for label, own in zip(classes, rows, strict=True)]


@dataclass(frozen=True)
class _Pool:
    """Real images of both kinds: those to be told apart, and more like them for the shadows; training images first."""

    data: PreparedData
    train_rows: Tensor
    test_rows: Tensor
    images: int
    """At most so many of each kind are targets, the first of them."""

    @classmethod
    def of(cls, view: View, config: MembershipConfig) -> Self:
        """Drawn from the data, no more test images than training images."""
        key, data = view.key.child("membership"), view.data
        train = permutation(key.child("members"), len(data.train))[: config.pool]
        test = permutation(key.child("non_members"), len(data.test))[: min(config.pool, len(train))]
        return cls(data, train, test, config.images)

    @property
    def labels_P(self) -> Tensor:
        return torch.cat([self.data.train.labels[self.train_rows], self.data.test.labels[self.test_rows]]).cpu()

    @property
    def num_members(self) -> int:
        return min(self.images, len(self.train_rows))

    @property
    def targets_N(self) -> Tensor:
        """Rows of the pool, members first."""
        others = min(self.images, len(self.test_rows))
        return torch.cat([torch.arange(self.num_members), len(self.train_rows) + torch.arange(others)])

    def logits(self, module: nn.Module) -> Tensor:
        """A network's of the targets, float32 [N, K]."""
        sides = (self.data.train, self.train_rows), (self.data.test, self.test_rows)
        return torch.cat([predict(module, SelectedImages(split.images, rows[: self.images])) for split, rows in sides])

    def training_set(self, rows_M: Tensor, trial: Trial, own: TrainingSet, device: torch.device) -> TrainingSet:
        """Some rows of the pool as what a shadow is trained on, by a trial's recipe and the step size of its set."""
        from_train = rows_M < len(self.train_rows)
        images = torch.cat(
            [
                self.data.train.images[self.train_rows[rows_M[from_train]]],
                self.data.test.images[self.test_rows[rows_M[~from_train] - len(self.train_rows)]],
            ]
        )
        labels = self.labels_P[torch.cat([rows_M[from_train], rows_M[~from_train]])]
        views = None
        if trial.recipe.views is not None:
            seen = ImageViews(images.to(device), self.data.preprocessing, trial.recipe.views)
            views = HardLabels(seen, labels, self.data.num_classes)
        return replace(own, images=images, targets=labels, classes=None, views=views)
