"""Configuration: a TOML file, strictly decoded, checked, and frozen.

``reference.toml`` beside this file documents every key with its unit and default.
"""

from __future__ import annotations

from mnagent.config.errors import ConfigurationError
from mnagent.config.loading import load
from mnagent.config.model import (
    Autoconfiguration,
    Configuration,
    CorrespondentConfiguration,
    Dhcp6,
    EngineChoice,
    HomeAgentConfiguration,
    HostConfiguration,
    InterfaceIdentifiers,
    InterfaceOrder,
    LogLevel,
    MobileNodeConfiguration,
    NewConnections,
    PayloadProtection,
    Protection,
    Role,
    RouteOptimization,
    RouteOptimizationPolicy,
    ServedMobileNode,
)
from mnagent.config.private_file import read_private_file

__all__ = [
    "Autoconfiguration",
    "Configuration",
    "ConfigurationError",
    "CorrespondentConfiguration",
    "Dhcp6",
    "EngineChoice",
    "HomeAgentConfiguration",
    "HostConfiguration",
    "InterfaceIdentifiers",
    "InterfaceOrder",
    "LogLevel",
    "MobileNodeConfiguration",
    "NewConnections",
    "PayloadProtection",
    "Protection",
    "Role",
    "RouteOptimization",
    "RouteOptimizationPolicy",
    "ServedMobileNode",
    "load",
    "read_private_file",
]
