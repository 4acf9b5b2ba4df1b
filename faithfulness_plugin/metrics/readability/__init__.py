"""Measures of how readable features are, without a language model as judge: one per file, pure functions of arrays.

They are about features, not about faithfulness: what `faithfulness experiment readability` compares arms by.
"""
