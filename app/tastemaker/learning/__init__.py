"""What learns, and how well: heads, training, metrics, what to ask next. Arrays in, arrays out;
nothing here knows the database.
"""
