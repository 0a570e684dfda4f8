"""Tables of clinical notes: identifiers replaced by tags, summaries written by a text model.

No module of this package puts text of a note into a message, a log or a record.
"""
