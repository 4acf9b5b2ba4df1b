"""`faithfulness report`: the results page, each experiment a file."""
