"""Makes a dataset of ours from data as others have it: `python -m common.prepare --help`.

rows of somebody's file ---> cells read by their columns ---> pictures looked at ---> Parquet
     tables, published           custom, columns                pictures            writing
                                      |                            |
                                      '----------> left_out.txt <--'
"""
