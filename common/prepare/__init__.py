"""Make a dataset of ours from data in other forms: `python -m common.prepare --help`.

rows of a foreign file  ---> cells read by their columns ---> pictures looked at ---> Parquet
     tables, published           custom, columns                pictures            writing
                                      |                            |
                                      '----------> left_out.txt <--'

    __main__                             the command, with its parts below
    custom_command, published_command    a person's own rows; Vision-OPD-6K
    custom, columns, boxes               what columns and boxes of own rows mean
    published, published_form            the published set
    tables, hub_rows, archives           rows from files and from the hub; archives unpacked
    source                               one row after its cells were read
    pictures                             looked at, baked, drawn on or cut
    hint                                 the published sentence about the red box
    preparation, conversion              a set -> a dataset, on all cores, in order
    telling                              what is said on the terminal

Invariant: a bad row costs only itself, and is named with file, row, field, value and fix.
"""
