"""The config: schema, files it is read from, and what is said when it is wrong."""

from pipeline.config.load import key_values, load_config, resolved_yaml
from pipeline.config.schema import Config

__all__ = ["Config", "key_values", "load_config", "resolved_yaml"]
