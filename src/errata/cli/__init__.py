"""The command line: one file per verb, light enough that help comes at once. What verbs do is in `work`.

Only this room prints.
"""
