"""Measures each layer group at few bits, and finds the best recipe within a budget.

Run: `python -m quantization_study.search`.

Each group of layers is quantized alone, the rest stays in 16 bits; harm is what that does to the
answers on the told scenes. A recipe begins with the fewest bits everywhere and spends the budget
where a byte of the full-size model saves most harm. Groups are kinds of layers, because a small
and a full-size model share no depth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import copy
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from alpamayo_ros.cli.entry import command
from alpamayo_ros.conversion.input_statistics import InputStatistics, read_input_statistics
from alpamayo_ros.files import write_atomically
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.checkpoint import hash_checkpoint
from alpamayo_ros.quantization.feedback import quantize_with_feedback
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.packed_weight import PackedWeight
from alpamayo_ros.quantization.scheme import Rule, Rules, find_rule
from alpamayo_ros.runtime.load import load_model
from quantization_study.checkpoints import Checkpoints, add_study_arguments
from quantization_study.dense import dense
from quantization_study.figures import draw_held_out_lessons
from quantization_study.forced import Lesson, compare
from quantization_study.full_size import bits_per_weight, stored_bytes

_LANGUAGE = 'vlm.model.language_model'
GROUPS = {
    'vision attention': 'vlm.model.visual.blocks.*.attn.*',
    'vision MLP': 'vlm.model.visual.blocks.*.mlp.*',
    'vision mergers': 'vlm.model.visual.*merger*',
    'embedding': f'{_LANGUAGE}.embed_tokens',
    'language attention': f'{_LANGUAGE}.layers.*.self_attn.*',
    'language gate and up': f'{_LANGUAGE}.layers.*.mlp.[gu]*_proj',
    'language down': f'{_LANGUAGE}.layers.*.mlp.down_proj',
    'head': 'vlm.lm_head',
    'expert attention': 'expert.layers.*.self_attn.*',
    'expert gate and up': 'expert.layers.*.mlp.[gu]*_proj',
    'expert down': 'expert.layers.*.mlp.down_proj',
    'actions in': 'action_in_proj.*',
    'action out': 'action_out_proj',
}
_PADDED = ('embedding', 'head')  # tables of the vocabulary, whose rows are odd in number
WIDTHS = (2.0, 4.0, 8.0, 16.0)
BUDGET_BITS = 3.0  # per weight of the full-size model
_KL_WEIGHT = 0.3  # beside the squared relative error of the velocity, as in training


class Trial:
    """A plain model whose matrices are quantized and put back; what was solved is kept."""

    def __init__(self, model: AlpamayoModel, statistics: InputStatistics) -> None:
        self.plain, self.model, self.statistics = model, copy.deepcopy(model), statistics
        self._solved: dict[tuple[str, Rule], Tensor] = {}

    def under(self, rules: Rules) -> AlpamayoModel:
        """The model with its matrices quantized under the rules, the others as they were."""
        for name, own in self.model.named_modules():
            if isinstance(own, nn.Linear | nn.Embedding):
                weight: Any = self.plain.get_submodule(name).weight
                rule = find_rule(name, rules)
                own.weight = nn.Parameter(
                    self._dense(name, weight, rule) if rule.scheme.levels else weight,
                    requires_grad=False,
                )
        return self.model

    def _dense(self, name: str, weight: Tensor, rule: Rule) -> Tensor:
        key = name, rule
        if key not in self._solved:
            moments = self.statistics.second_moments(name)
            if moments is None:
                stored, _ = quantize_matrix(weight, rule, device=weight.device)
            else:
                stored, _ = quantize_with_feedback(weight, rule, moments, weight.device)
            self._solved[key] = _unpacked(stored, weight, rule)
        return self._solved[key]


def _unpacked(stored: Mapping[str, Tensor], weight: Tensor, rule: Rule) -> Tensor:
    packed = PackedWeight(rule.pad(len(weight)), weight.shape[1], rule.scheme, torch.float32)
    state = {name.removeprefix('.'): tensor for name, tensor in stored.items()}
    packed.load_state_dict(state, assign=True)
    return dense(packed.float(), len(weight))


def harm(figures: Mapping[str, float]) -> float:
    """One number for how far answers are from those of 16 bits."""
    return figures['velocity_error'] ** 2 + _KL_WEIGHT * figures['kl']


def rules_for(widths: Mapping[str, float]) -> Rules:
    """Rules that give each group its width; what is in no group stays."""
    return (
        *(
            Rule(GROUPS[name], bits, 128 if name in _PADDED and bits < 16 else 1)
            for name, bits in widths.items()
        ),
        Rule('*', 16),
    )


def sensitivity(
    trial: Trial, given: list[Lesson], advance: Callable[[int], object]
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of every group at every width below 16, alone."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in GROUPS:
        found[name] = {}
        for bits in WIDTHS[:-1]:
            figures = compare(trial.under(rules_for({name: bits})), given)
            found[name][f'{bits:g}'] = figures | {'harm': harm(figures)}
            advance(1)
    return found


def search(harms: Mapping[str, Mapping[float, float]], budget_bits: float) -> dict[str, float]:
    """Widths of the groups within a budget: greedy by harm saved per byte of the full-size model.

    harms: of each group at each of WIDTHS. A step may skip widths, and one that does not fit is
    left out for others that do.
    """
    widths = dict.fromkeys(GROUPS, WIDTHS[0])
    while True:
        best, most = None, 0.0
        now = bits_per_weight(rules_for(widths))
        for name, bits in widths.items():
            for more in WIDTHS[WIDTHS.index(bits) + 1 :]:
                cost = bits_per_weight(rules_for(widths | {name: more}))
                saved = harms[name][bits] - harms[name][more]
                if cost <= budget_bits and saved / (cost - now) > most:
                    best, most = {name: more}, saved / (cost - now)
        if best is None:
            return widths
        widths |= best


def _described(rules: Rules, widths: Mapping[str, float]) -> dict[str, Any]:
    return {
        'widths': dict(widths),
        'modules': {rule.pattern: rule.to_json() for rule in rules},
        'full_size_bits': bits_per_weight(rules),
        'full_size_bytes': sum(stored_bytes(rules).values()),
    }


@command
def main(argv: list[str] | None = None) -> int:
    """Measure each group of layers at each width, and find the recipe of a budget."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, prog='python -m quantization_study.search'
    )
    add_study_arguments(parser)
    budget = 'bits per weight of the full size'
    parser.add_argument('--budget', type=float, default=BUDGET_BITS, help=budget)
    arguments = parser.parse_args(argv)
    model = load_model(arguments.checkpoint, arguments.device, 16)
    made = Checkpoints(arguments.checkpoint, arguments.work, arguments.device)
    trial = Trial(model, read_input_statistics(made.statistics(), model))
    given = draw_held_out_lessons(model, arguments.checkpoint, arguments.device)
    total = len(GROUPS) * (len(WIDTHS) - 1)
    with tqdm(desc='sensitivity', total=total, dynamic_ncols=True) as bar:
        found = sensitivity(trial, given, bar.update)
    harms = {
        name: {float(bits): own['harm'] for bits, own in by_width.items()} | {WIDTHS[-1]: 0.0}
        for name, by_width in found.items()
    }
    widths = search(harms, arguments.budget)
    rules = rules_for(widths)
    figures = compare(trial.under(rules), given)
    result = {
        'checkpoint_sha256': hash_checkpoint(arguments.checkpoint),
        'budget_bits': arguments.budget,
        'sensitivity': found,
        'recipe': _described(rules, widths) | figures | {'harm': harm(figures)},
    }
    write_atomically(arguments.out, json.dumps(result, indent=1) + '\n')
    _print(found, widths)
    print(json.dumps(result['recipe'] | {'modules': len(GROUPS)}))
    return 0


def _print(
    found: Mapping[str, Mapping[str, Mapping[str, float]]], widths: Mapping[str, float]
) -> None:
    for name, by_width in found.items():
        shown = ', '.join(f'{bits} bits {own["harm"]:.5f}' for bits, own in by_width.items())
        print(f'{name}: {shown}; takes {widths[name]:g}')


if __name__ == '__main__':
    sys.exit(main())
