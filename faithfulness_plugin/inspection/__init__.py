"""Features read through hooks: records, a datapoint score, interventions, and a page that opens from disk."""

from faithfulness_plugin.inspection.active_features import ActiveFeature, active_features
from faithfulness_plugin.inspection.export import feature_table, write_records
from faithfulness_plugin.inspection.faithfulness import FeatureFaithfulness, feature_faithfulness
from faithfulness_plugin.inspection.feature_view import FeatureView
from faithfulness_plugin.inspection.inspection import Inspection, inspect_transcoder
from faithfulness_plugin.inspection.interventions import InterventionEffect, intervene
from faithfulness_plugin.inspection.layer_vocabulary import LayerVocabulary, layer_vocabulary
from faithfulness_plugin.inspection.page import Page, write_page
from faithfulness_plugin.inspection.passes import Passes
from faithfulness_plugin.inspection.records import FeatureRecords, feature_records
from faithfulness_plugin.inspection.sample import RowSample, row_sample
from faithfulness_plugin.inspection.text import text_sample

__all__ = [
    "ActiveFeature",
    "FeatureFaithfulness",
    "FeatureRecords",
    "FeatureView",
    "Inspection",
    "InterventionEffect",
    "LayerVocabulary",
    "Page",
    "Passes",
    "RowSample",
    "active_features",
    "feature_faithfulness",
    "feature_records",
    "feature_table",
    "inspect_transcoder",
    "intervene",
    "layer_vocabulary",
    "row_sample",
    "text_sample",
    "write_page",
    "write_records",
]
