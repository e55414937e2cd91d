"""Checks a parameter against its descriptor: type, ranges, read-only. Knows no node."""

import math

from rosless.parameter import Parameter

STEP_TOLERANCE = 1e-6


def explain_refusal(parameter: Parameter, descriptor, *, declaring: bool) -> str:
    """Why a descriptor refuses a parameter, in rclpy's words where there are any; '' if not.

    Args:
        parameter: what is to be stored.
        descriptor: rcl_interfaces/msg/ParameterDescriptor with the type of the declaration.
        declaring: whether this is the declaration, which sets read-only parameters too.
    """
    if descriptor.read_only and not declaring:
        return f'Trying to set a read-only parameter: {parameter.name}.'
    if not descriptor.dynamic_typing:
        if parameter.type_ == Parameter.Type.NOT_SET:
            return '' if declaring else 'Static parameter cannot be undeclared'
        if parameter.type_.value != descriptor.type:
            expected = Parameter.Type(descriptor.type)
            return f"Wrong parameter type, expected '{expected}' got '{parameter.type_}'"
    if parameter.type_ == Parameter.Type.INTEGER and descriptor.integer_range:
        return _explain_range(parameter, descriptor.integer_range[0], 0.0)
    if parameter.type_ == Parameter.Type.DOUBLE and descriptor.floating_point_range:
        return _explain_range(parameter, descriptor.floating_point_range[0], STEP_TOLERANCE)
    return ''


def _explain_range(parameter: Parameter, limits, tolerance: float) -> str:
    value = parameter.value
    low = min(limits.from_value, limits.to_value)
    high = max(limits.from_value, limits.to_value)

    def same(one, other):
        return math.isclose(one, other, rel_tol=tolerance)

    if same(value, low) or same(value, high):  # the edges need not be steps
        return ''
    if not low < value < high:
        return f'Parameter {parameter.name} out of range Min: {low}, Max: {high}, value: {value}'
    if limits.step and not same(low + round((value - low) / limits.step) * limits.step, value):
        return (
            f'Parameter {parameter.name} is not a valid step '
            f'Min: {low}, Max: {high}, value: {value}, step: {limits.step}'
        )
    return ''
