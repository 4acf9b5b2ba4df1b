"""Jacobian matching for dictionary_learning (0.1): its dictionaries in closed form, its trainers with the term."""

from faithfulness_plugin.adapters.dictionary_learning.make_trainer import matched_trainer

__all__ = ["matched_trainer"]
