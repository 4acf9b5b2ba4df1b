"""Ways of training a transcoder, for the faithfulness benchmark."""
