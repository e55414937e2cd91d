"""Settings of a tiny trained model: the shipped ones with other sizes."""

from pathlib import Path

import yaml

from training.train import DEFAULT

HEIGHT, WIDTH = 32, 64
TINY = {
    'model': {
        'text': {'hidden_size': 64, 'intermediate_size': 96, 'num_hidden_layers': 2,
                 'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 16,
                 'mrope_section': [4, 2, 2]},
        'vision': {'hidden_size': 32, 'intermediate_size': 48, 'depth': 2, 'num_heads': 2,
                   'num_position_embeddings': 36, 'deepstack_visual_indexes': [0]},
        'expert': {'hidden_size': 64, 'intermediate_size': 96, 'num_attention_heads': 4},
        'action_in_proj': {'hidden_size': 32, 'max_freq': 0.1},
        'future_bins': 16, 'history_bins': 1000, 'flow_steps': 4,
    },
    'image': {'height': HEIGHT, 'width': WIDTH, 'min_pixels': 1024, 'max_pixels': 4096},
    'data': {'seconds': 12.0, 'first_drive': 0, 'samples_per_drive': 3, 'drives_per_chunk': 2,
             'kept_chunks': 2, 'passes': 2, 'route_share': 0.5, 'other_way_share': 0.4,
             'silent_share': 0.3, 'textured_share': 0.5, 'demo_share': 0.0,
             'changed_shares': {'lights': 0.5, 'pedestrians': 0.5, 'vehicles': 0.25,
                                'history': 0.3}},
    'cameras': [{'indices': [1, 6], 'share': 0.6}, {'indices': [1], 'share': 0.4}],
    'batch': 3, 'steps': 8, 'warmup': 2, 'learning_rate': 0.003, 'log_every': 2,
}  # fmt: skip


def write_settings(file: Path, **changes) -> Path:
    """Write the settings of the tiny model; returns the file."""
    shipped = yaml.safe_load(DEFAULT.read_text(encoding='utf-8'))
    file.write_text(yaml.safe_dump(shipped | TINY | changes), encoding='utf-8')
    return file
