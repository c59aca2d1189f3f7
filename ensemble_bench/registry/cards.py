"""Cards: what each attack, data set, backbone and preset is, and where it lives; adding one adds a card here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """A name that users type: its `home` is "module:attribute", or a mapping there that holds the entry of that name.

    `description` is one line for `ensemble-bench list`, empty where the entry at home has its own.
    """

    home: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How an attack goes about it, for the warnings of masked gradients.

    `ascends` names the losses of the model's logits that it climbs: "cross-entropy", "margin" or "targeted margin". A
    `plain` attack is one that AutoAttack, which `autoattack` marks, should beat where both climb the same. `warning`
    is raised when an attack that follows no gradient breaks what the others missed; None for one that follows
    gradients. With fewer than `classes` classes its loss is undefined, and the margin stands in.
    """

    ascends: tuple[str, ...] = ()
    plain: bool = False
    autoattack: bool = False
    single_step: bool = False
    warning: str | None = None
    classes: int = 0

    @property
    def standard(self) -> bool:
        """Whether it climbs a loss of the logits by steps alone, as plain attacks and Auto-PGD do."""
        return self.plain or (self.autoattack and bool(self.ascends))


@dataclass(frozen=True, kw_only=True)
class AttackCard(Card, Conduct):
    """An attack; its name is followed by a number of steps, "pgd20", unless it takes none."""

    takes_steps: bool = True


CROSS_ENTROPY, MARGIN, TARGETED = "cross-entropy", "margin", "targeted margin"

ATTACKS: Mapping[str, AttackCard] = {
    "ifgsm": AttackCard(
        home="ensemble_bench.attacks.pgd:ifgsm",
        description="N sign steps from a random start (Kurakin et al. 2017; what toolkits call PGD)",
        ascends=(CROSS_ENTROPY,),
        plain=True,
    ),
    "bim": AttackCard(
        home="ensemble_bench.attacks.pgd:bim",
        description="N sign steps from the image itself",
        ascends=(CROSS_ENTROPY,),
        plain=True,
    ),
    "pgd": AttackCard(
        home="ensemble_bench.attacks.pgd:pgd_adam",
        description="N Adam steps on the raw gradient from a random start (Grefenstette et al. 2018)",
        ascends=(CROSS_ENTROPY,),
        plain=True,
    ),
    "margin": AttackCard(
        home="ensemble_bench.attacks.pgd:margin_pgd",
        description="N sign steps on the margin loss (Carlini & Wagner 2017)",
        ascends=(MARGIN,),
        plain=True,
    ),
    "margin-t": AttackCard(
        home="ensemble_bench.attacks.pgd:margin_t",
        description="as marginN, at each of 9 classes in turn (multi-targeted; Gowal et al. 2019)",
        ascends=(TARGETED,),
        plain=True,
    ),
    "margin-doubled": AttackCard(
        home="ensemble_bench.attacks.pgd:margin_doubled",
        description="as marginN with 10, 20, 40, … up to N steps, until accuracy stops falling",
        ascends=(MARGIN,),
        plain=True,
    ),
    "margin-plateau": AttackCard(
        home="ensemble_bench.attacks.pgd:margin_plateau",
        description="as marginN with 100, 200, 400, … up to N steps, until two doublings break nothing",
        ascends=(MARGIN,),
        plain=True,
    ),
    "sweep": AttackCard(
        home="ensemble_bench.attacks.sweep:sweep",
        description="N steps of falling size on the margin, then on that of each of 9 classes in turn",
        ascends=(MARGIN, TARGETED),
    ),
    "sweep-top": AttackCard(
        home="ensemble_bench.attacks.sweep:sweep_top",
        description="as sweepN, at the 3 strongest classes: long searches near the boundary",
        ascends=(MARGIN, TARGETED),
    ),
    "margin-odi": AttackCard(
        home="ensemble_bench.attacks.odi:margin_odi",
        description="as marginN, from output-diversified starts (Tashiro et al. 2020)",
        ascends=(MARGIN,),
        plain=True,
    ),
    "pma": AttackCard(
        home="ensemble_bench.attacks.pma:pma",
        description="N steps on the strongest wrong class's probability, then on its margin (Xie et al. 2025)",
        ascends=(MARGIN,),
    ),
    "reacg": AttackCard(
        home="ensemble_bench.attacks.reacg:reacg",
        description="Auto-PGD's steps along rescaled conjugate gradients of the margin (Yamamura et al. 2024)",
        ascends=(MARGIN,),
    ),
    "apgd": AttackCard(
        home="ensemble_bench.attacks.apgd:apgd_ce",
        description="Auto-PGD on the cross-entropy (Croce & Hein 2020)",
        ascends=(CROSS_ENTROPY,),
        autoattack=True,
    ),
    # The difference of logits ratio is the margin, scaled: an attack on one stands for an attack on the other.
    "apgd-dlr": AttackCard(
        home="ensemble_bench.attacks.apgd:apgd_dlr",
        description="Auto-PGD on the difference of logits ratio (Croce & Hein 2020)",
        ascends=(MARGIN,),
        autoattack=True,
        classes=3,
    ),
    "apgd-t": AttackCard(
        home="ensemble_bench.attacks.apgd:apgd_t",
        description="Auto-PGD on the targeted ratio, 9 classes in turn (Croce & Hein 2020)",
        ascends=(MARGIN, TARGETED),
        autoattack=True,
        classes=4,
    ),
    "malt": AttackCard(
        home="ensemble_bench.attacks.malt:malt",
        description="as apgd-tN, the classes in order of their linearised distance (Melamed et al. 2024)",
        ascends=(MARGIN, TARGETED),
        classes=4,
    ),
    "bypass": AttackCard(
        home="ensemble_bench.attacks.members:bypass",
        description="aggregator bypass: attacks the mean of the members' logits, judged by the ensemble",
    ),
    "mean-member": AttackCard(
        home="ensemble_bench.attacks.members:mean_member",
        description="margin loss, mean over the members (Grefenstette et al. 2018, appendix A.2)",
    ),
    "mean-member-doubled": AttackCard(
        home="ensemble_bench.attacks.members:DOUBLED",
        description="as mean-memberN, with 10, 20, 40, … up to N steps",
    ),
    "max-member": AttackCard(
        home="ensemble_bench.attacks.members:max_member",
        description="… the largest over the members",
    ),
    "max-member-doubled": AttackCard(
        home="ensemble_bench.attacks.members:DOUBLED",
        description="as max-memberN, likewise",
    ),
    "clipped-member": AttackCard(
        home="ensemble_bench.attacks.members:clipped_member",
        description="… each member's clipped, then their mean",
    ),
    "clipped-member-doubled": AttackCard(
        home="ensemble_bench.attacks.members:DOUBLED",
        description="as clipped-memberN, likewise",
    ),
    "random-member": AttackCard(
        home="ensemble_bench.attacks.members:random_member",
        description="… of a member drawn at every step (Athalye et al. 2018)",
    ),
    "random-member-doubled": AttackCard(
        home="ensemble_bench.attacks.members:DOUBLED",
        description="as random-memberN, likewise",
    ),
    "member-transfer": AttackCard(
        home="ensemble_bench.attacks.members:member_transfer",
        description="Auto-PGD against each member alone, judged by the ensemble",
    ),
    "mora": AttackCard(
        home="ensemble_bench.attacks.mora:mora",
        description="ensemble model-reweighing (Yu et al. 2022)",
    ),
    "arc": AttackCard(
        home="ensemble_bench.attacks.arc:arc",
        description="nearest linearised boundary of each member, for randomised ensembles (Dbouk & Shanbhag 2022)",
    ),
    "fab-t": AttackCard(
        home="ensemble_bench.attacks.foreign.external:fab_t",
        description="FAB at each of 9 classes, N iterations (Croce & Hein 2020; from pyautoattack)",
        autoattack=True,
    ),
    "square": AttackCard(
        home="ensemble_bench.attacks.foreign.external:square",
        description="Square attack, N queries, no gradients (Andriushchenko et al. 2020; from pyautoattack)",
        autoattack=True,
        warning="square-breaks-more",
    ),
    "blackbox": AttackCard(
        home="ensemble_bench.attacks.blackbox.transfer:Transfer",
        description="images that fool two networks the model has not seen",
        warning="blackbox-breaks-more",
        takes_steps=False,
    ),
}

# Attacks of these are named toolkit:NAME(argument=value, …).
TOOLKITS = ("torchattacks", "art")
# Who runs an attack whose name ends so, on the same settings: ifgsm20@engine, ifgsm20@torchattacks, ifgsm20@art.
IMPLEMENTATIONS = ("engine", "torchattacks", "art")
# Those of the toolkits' attacks that follow no gradient, or take a single step.
TOOLKIT_ATTACKS: Mapping[str, Conduct] = {
    **dict.fromkeys(("torchattacks:Square", "art:SquareAttack"), Conduct(warning="square-breaks-more")),
    **dict.fromkeys(
        (
            "torchattacks:GN",
            "torchattacks:OnePixel",
            "torchattacks:Pixle",
            "torchattacks:SPSA",
            "art:BoundaryAttack",
            "art:GRAPHITEBlackbox",
            "art:GeoDA",
            "art:HopSkipJump",
            "art:LaserAttack",
            "art:PixelAttack",
            "art:SignOPTAttack",
            "art:SimBA",
            "art:SpatialTransformation",
            "art:ThresholdAttack",
            "art:ZooAttack",
        ),
        Conduct(warning="gradient-free-breaks-more"),
    ),
    **dict.fromkeys(("torchattacks:FGSM", "torchattacks:FFGSM", "art:FastGradientMethod"), Conduct(single_step=True)),
}

PRESETS: Mapping[str, Card] = dict.fromkeys(
    ("paper", "modern", "small", "cpu", "tiny"), Card(home="ensemble_bench.training.presets:PRESETS")
)
DATASETS: Mapping[str, Card] = {
    "digits": Card(
        home="ensemble_bench.data.digits:open_digits",
        description="1,797 handwritten digits of 8x8 pixels, embedded",
    ),
    "cifar10": Card(
        home="ensemble_bench.data.cifar10:open_cifar10",
        description="60,000 colour images of 32x32 pixels in 10 classes, from --data-dir or a download",
    ),
    "cifar100": Card(
        home="ensemble_bench.data.cifar100:open_cifar100",
        description="60,000 colour images of 32x32 pixels in 100 classes, from --data-dir",
    ),
    "imagenet": Card(
        home="ensemble_bench.data.imagenet:open_imagenet",
        description="class folders train/ and val/, or val/ alone, at 224x224, from --data-dir",
    ),
    "imagenet-robustbench": Card(
        home="ensemble_bench.data.imagenet:open_robustbench",
        description="the 5,000 of ImageNet's validation images that RobustBench evaluates on, from --data-dir",
    ),
}
_OBJECTIVES = "ensemble_bench.training.objectives:OBJECTIVES"
OBJECTIVES: Mapping[str, Card] = {
    "ensemble": Card(home=_OBJECTIVES, description="loss of the mean probability (Eq. 4)"),
    "member-mean": Card(home=_OBJECTIVES, description="mean of the members' own losses"),
    "adp": Card(home=_OBJECTIVES, description="their sum, and a bonus for members that diverge (Pang et al. 2019)"),
    "trades": Card(home=_OBJECTIVES, description="loss on x, and the divergence of x_adv from x (Zhang et al. 2019)"),
    "mart": Card(home=_OBJECTIVES, description="boosted loss on x_adv, and a weighted divergence (Wang et al. 2020)"),
}
BACKBONES: Mapping[str, Card] = {
    "wrn": Card(
        home="ensemble_bench.models.backbones.wide_resnet:WideResNet",
        description="Wide ResNet of a depth and a width (Zagoruyko & Komodakis 2016)",
    ),
    "preact_resnet18": Card(
        home="ensemble_bench.models.backbones.preact_resnet:PreActResNet18",
        description="pre-activation ResNet-18 (He et al. 2016)",
    ),
    "vgg16_bn": Card(
        home="ensemble_bench.models.backbones.vgg:VGG16BN",
        description="VGG-16 with batch norm (Simonyan & Zisserman 2015)",
    ),
    "small_cnn": Card(
        home="ensemble_bench.models.backbones.small_cnn:SmallCNN",
        description="a small network for 8x8 images",
    ),
}
