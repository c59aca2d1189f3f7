"""How every attack of torchattacks and ART is run for the table of `toolkit_attacks.py`, or why it cannot run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ensemble_bench as eb

EPS, EPS_L2, CLASSES, N, SIDE = 0.2, 3.0, 10, 40, 16
Run = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An attack that stands in a suite, unless `alone` says why not; `fails` says why it cannot run at all."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    alone: str = ""
    fails: str = ""
    package: str = ""
    """What it fails for the lack of."""
    error: str = ""
    """Part of the message with which it fails."""
    run: Run | None = None
    """How to call the class on model, images and labels, where the toolkit's usual way does not do."""
    n: int = N
    threat: eb.ThreatModel = eb.ThreatModel(eps=EPS)


def suite(note: str = "", **arguments: Any) -> Case:
    return Case(note=note, arguments=arguments)


def alone(why: str, run: Run | None = None, n: int = N, **arguments: Any) -> Case:
    return Case(alone=why, run=run, n=n, arguments=arguments)


def fails(why: str, error: str, run: Run | None = None, **arguments: Any) -> Case:
    return Case(fails=why, error=error, run=run, n=2, arguments=arguments)


def needs(package: str, run: Run | None = None, why: str = "", error: str = "", **arguments: Any) -> Case:
    case = fails(why or f"needs the package {package}", error or f"No module named '{package}'", run, **arguments)
    return replace(case, package=package)


def estimator(model: nn.Module, x: Tensor) -> Any:
    return eb.adapters.art.classifier(model, input_shape=tuple(x.shape[1:]), nb_classes=CLASSES)


def one_hot(y: Tensor) -> Any:
    return nn.functional.one_hot(y, CLASSES).numpy()


# How users call what is no plain attack on a batch of images


def probabilities(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    made = attack(estimator(nn.Sequential(model, nn.Softmax(dim=1)), x), verbose=False, **arguments)
    return made.generate(x.numpy(), one_hot(y))


def patch(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    """Trained on the images that it is then put on, a quarter of each."""
    made = attack(estimator(model, x), targeted=False, verbose=False, **arguments)
    made.generate(x.numpy(), one_hot(y))
    return made.apply_patch(x.numpy(), scale=0.5)


def one_by_one(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    made = attack(estimator(model, x), batch_size=1, verbose=False, **arguments)
    return torch.cat(
        [torch.from_numpy(made.generate(x[i : i + 1].numpy(), one_hot(y[i : i + 1]))) for i in range(len(x))]
    )


def rows_as_frames(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent

    given = estimator(model, x)
    inner = ProjectedGradientDescent(given, eps=EPS, eps_step=EPS / 4, max_iter=10, verbose=False)
    return attack(given, inner, frame_index=2, verbose=False, **arguments).generate(x.numpy(), y.numpy())


def towards_guides(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    """The guide of an image, which it is to look like inside the network, is the image before it."""
    return attack(estimator(model, x), **arguments).generate(x.numpy(), x.roll(1, dims=0).numpy())


def towards_next_class(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    return attack(estimator(model, x), **arguments).generate(x.numpy(), one_hot((y + 1) % CLASSES))


def both_in_turn(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Any:
    import torchattacks

    view = eb.adapters.torchattacks.module(model)
    return attack([torchattacks.FGSM(view, eps=EPS), torchattacks.APGD(view, eps=EPS)])(x, y)


def collecting_models(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    """It copies the model, and trains the copy on the images."""
    loader = DataLoader(TensorDataset(x, y), batch_size=max(len(x) // 4, 1))
    return attack(model, loader, verbose=False, **arguments)(x, y)


def towards_image(attack: Any, model: nn.Module, x: Tensor, y: Tensor, **arguments: Any) -> Any:
    made = attack(estimator(model, x), **arguments)
    return made.generate(x.numpy(), one_hot((y + 1) % CLASSES), x_tar=x.roll(1, dims=0).numpy())


NEAREST = "takes no eps: it looks for the nearest adversarial image"
NO_EPS = "takes no eps"
RAW_GRADIENT = "hardly moves: under linf ART 1.20.1 steps along the gradient, not its sign"
LAYERS = "looks at layers inside the network, which the view hides"
DETECTORS = "for object detectors"
SPEECH = "for speech recognisers"
TENSORFLOW = "for TensorFlow models"
ESTIMATOR = "requires an estimator derived from"

TORCHATTACKS: Mapping[str, Case] = {
    "VANILA": suite("returns the images as they are"),
    "GN": alone("Gaussian noise, which takes no eps", std=0.1),
    "FGSM": suite(),
    "BIM": suite(),
    "RFGSM": suite(),
    "PGD": suite(),
    "EOTPGD": suite(),
    "FFGSM": suite(),
    "TPGD": suite(),
    "MIFGSM": suite(),
    "UPGD": suite(),
    "APGD": suite(),
    "APGDT": suite(),
    "DIFGSM": suite(),
    "TIFGSM": suite(),
    "Jitter": suite(),
    "NIFGSM": suite(),
    "PGDRS": suite(noise_sd=0.05),
    "SINIFGSM": suite(),
    "VMIFGSM": suite(),
    "VNIFGSM": suite(),
    "SPSA": suite(nb_iter=10, lr=0.05),
    "JSMA": alone(NO_EPS, n=10),
    "EADL1": alone(
        NEAREST + "; leaves [0, 1] by up to a step",
        lr=0.05,
        max_iterations=50,
        binary_search_steps=3,
        initial_const=1.0,
    ),
    "EADEN": alone(
        NEAREST + "; leaves [0, 1] by up to a step",
        lr=0.05,
        max_iterations=50,
        binary_search_steps=3,
        initial_const=1.0,
    ),
    "PIFGSM": suite(),
    "PIFGSMPP": suite(),
    "CW": alone(NEAREST, c=10, lr=0.1),
    "PGDL2": Case(threat=eb.ThreatModel(norm="l2", eps=EPS_L2)),
    "DeepFool": alone(NEAREST),
    "PGDRSL2": Case(threat=eb.ThreatModel(norm="l2", eps=EPS_L2), arguments={"noise_sd": 0.05}),
    "SparseFool": alone(NO_EPS, n=10, steps=3),
    "OnePixel": alone(NO_EPS, pixels=5, steps=10, popsize=100, n=10),
    "Pixle": alone(NO_EPS, n=20),
    "FAB": suite(),
    "AutoAttack": suite(),
    "Square": suite(n_queries=500),
    "MultiAttack": alone("takes a list of attacks", both_in_turn),
    "LGV": alone("trains copies of the model itself", collecting_models, epochs=1, lr=0.01, eps=EPS, alpha=EPS / 4),
}

ART: Mapping[str, Case] = {
    "AdversarialPatch": alone("returns a patch", patch, max_iter=20, patch_shape=(3, SIDE, SIDE)),
    "AdversarialPatchNumpy": fails(
        "trips over its own clip values, which ART holds as float32", "no attribute 'patch'"
    ),
    "AdversarialPatchPyTorch": alone("returns a patch", patch, max_iter=20, patch_shape=(3, SIDE, SIDE)),
    "AdversarialPatchTensorFlowV2": needs("tensorflow", why=TENSORFLOW),
    "AdversarialTexturePyTorch": fails("for object trackers", ESTIMATOR, patch_height=4, patch_width=4),
    "AutoAttack": needs("multiprocess"),
    "AutoConjugateGradient": suite(RAW_GRADIENT, max_iter=20, nb_random_init=1),
    "AutoProjectedGradientDescent": suite(max_iter=20, nb_random_init=1),
    "BasicIterativeMethod": suite(max_iter=10),
    "BoundaryAttack": alone(NEAREST, n=5, targeted=False, max_iter=20),
    "BrendelBethgeAttack": needs("numba", error="no attribute 'BrendelBethgeAttack'"),
    "CarliniL0Method": alone(NEAREST, n=5, max_iter=20, binary_search_steps=2, learning_rate=0.1, initial_const=10.0),
    "CarliniL2Method": alone(NEAREST, n=10, max_iter=20, binary_search_steps=3, learning_rate=0.1, initial_const=10.0),
    "CarliniLInfMethod": alone(NEAREST, n=5, max_iter=10, learning_rate=0.1, initial_const=0.1),
    "CarliniWagnerASR": fails(SPEECH, ESTIMATOR),
    "CompositeAdversarialAttackPyTorch": needs("kornia"),
    "DPatch": fails(DETECTORS, ESTIMATOR),
    "DecisionTreeAttack": fails("for decision trees", ESTIMATOR),
    "DeepFool": alone(NEAREST, n=10),
    "ElasticNet": alone(NEAREST, n=10, max_iter=20, binary_search_steps=3, learning_rate=0.1, initial_const=10.0),
    "FastGradientMethod": suite(),
    "FeatureAdversariesNumpy": fails(LAYERS, "list index out of range", towards_guides, delta=EPS, layer=-1),
    "FeatureAdversariesPyTorch": fails(LAYERS, "list index out of range", towards_guides, delta=EPS, step_size=EPS),
    "FeatureAdversariesTensorFlowV2": needs("tensorflow", why=TENSORFLOW, delta=EPS, step_size=EPS),
    "FrameSaliencyAttack": alone("wraps another attack", rows_as_frames),
    "GRAPHITEBlackbox": needs("cv2", towards_image, noise_size=(SIDE, SIDE), net_size=(SIDE, SIDE)),
    "GRAPHITEWhiteboxPyTorch": needs("cv2", net_size=(SIDE, SIDE)),
    "GeoDA": fails("calls np.mat, which NumPy 2 dropped", "np.mat", max_iter=500),
    "HighConfidenceLowUncertainty": fails("for Gaussian processes of GPy", ESTIMATOR),
    "HopSkipJump": alone(NEAREST, n=10, max_iter=3, max_eval=200, init_eval=10),
    "ImperceptibleASR": fails(SPEECH, ESTIMATOR, masker=None),
    "ImperceptibleASRPyTorch": fails(SPEECH, ESTIMATOR),
    "LaserAttack": fails("wants images with channels last", "Channels first", iterations=1, laser_generator=None),
    "LowProFool": fails("for tables of numbers", "No feature importance vector"),
    "MalwareGDTensorFlow": needs(
        "tensorflow", why="for malware, in TensorFlow", embedding_weights=np.zeros((2, 2)), param_dic={}
    ),
    "MomentumIterativeMethod": suite(max_iter=10),
    "NewtonFool": alone(NO_EPS, n=10, max_iter=20),
    "OverTheAirFlickeringPyTorch": fails("for videos", "index out of range"),
    "OverloadPyTorch": fails(DETECTORS, "IndexError", eps=EPS, max_iter=1, num_grid=2, batch_size=2, threshold=0.5),
    "PixelAttack": alone(NO_EPS, n=2, max_iter=1),
    "ProjectedGradientDescent": suite(max_iter=10),
    "ProjectedGradientDescentNumpy": suite(max_iter=10),
    "ProjectedGradientDescentPyTorch": suite(max_iter=10),
    "ProjectedGradientDescentTensorFlowV2": needs("tensorflow", why=TENSORFLOW),
    "RescalingAutoConjugateGradient": suite(RAW_GRADIENT, max_iter=20, nb_random_init=1),
    "RobustDPatch": fails(DETECTORS, ESTIMATOR),
    "SNAL": fails(
        DETECTORS, "TypeError", candidates=[torch.zeros(3, 8, 8)], collector=None, eps=EPS, max_iter=1, num_grid=2
    ),
    "SaliencyMapMethod": alone("takes a target for every image", towards_next_class, n=10, theta=0.5, gamma=0.3),
    "ShadowAttack": alone("takes one image at a time", one_by_one, n=5, nb_steps=30),
    "SignOPTAttack": alone(NEAREST, n=5, targeted=False, max_iter=5, query_limit=500),
    "SimBA": alone("wants probabilities", probabilities, n=10, max_iter=200, epsilon=0.2),
    "SpatialTransformation": alone(NO_EPS, max_translation=20, num_translations=3, max_rotation=20, num_rotations=3),
    "SquareAttack": suite(max_iter=200),
    "TargetedUniversalPerturbation": alone(
        "takes a target for every image", towards_next_class, n=10, eps=EPS, max_iter=3
    ),
    "ThresholdAttack": alone("takes eps as th, in levels of 255", n=2, th=51, es=1, max_iter=2),
    "UniversalPerturbation": suite(max_iter=1),
    "VirtualAdversarialMethod": alone("wants probabilities", probabilities, n=2, eps=3.0, max_iter=1),
    "Wasserstein": alone("has a ball of its own", n=4, max_iter=4),
    "ZooAttack": alone(
        NEAREST, n=2, max_iter=10, use_resize=False, use_importance=False, learning_rate=0.1, initial_const=10.0
    ),
}
CASES = {"torchattacks": TORCHATTACKS, "art": ART}
