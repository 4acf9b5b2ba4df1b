"""Does matching cost readability? What features of a real layer's transcoders are like, arm by arm."""
