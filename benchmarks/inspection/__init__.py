"""Does the datapoint score, which knows no ground truth, find the features that it should?"""
