"""Texts of the checks of a context: what each means, and what helps."""

from __future__ import annotations

CONTEXT_CHECKS = {
    'camera_subset': 'the rig has not all cameras that the model was trained with, or a choice '
    'of cameras leaves some out',
    'camera_changed': 'frame_id or size changes within a camera topic: two cameras publish on it',
    'twist_missing': 'the twist of the odometry is not finite: the speed is that of the poses',
    'twist_zero': 'the twist of the odometry is always zero: the speed is that of the poses',
    'twist_unsigned': 'the twist of the odometry has no sign: the speed is that of the poses',
    'v0_mismatch': 'history and twist disagree by more than 0.5 m/s',
    'history_saturated': 'the vehicle is faster than 40 m/s, the limit of the history tokens',
    'frame_id_slash': 'a frame name of the odometry begins with a slash, which is taken off',
    'dark_image': 'a camera image is nearly black: a camera of 10 to 14 bits needs bit_depth in '
    'the rig file',
    'navigation_missing': 'there is no route text that is new enough, so the prompt has none',
    'navigation_unused': 'there is a route text, and the model knows none',
    'unguided': 'guidance_weight has no effect without a route text',
    'out_of_training': 'the model was not trained to plan without reasoning',
}
