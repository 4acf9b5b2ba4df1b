"""Every layer of a language model replaced: do attribution graphs tell the truth?"""
