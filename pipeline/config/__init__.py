"""The config: schema, files it is read from, and what is said when it is wrong."""

from pipeline.config.load import field_help, key_values, load_config, resolved_yaml
from pipeline.config.schema import Config

__all__ = ["Config", "field_help", "key_values", "load_config", "resolved_yaml"]
