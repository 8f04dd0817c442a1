"""The model as it trains: loaded, packed, adapted, sharded over ranks; and the teacher."""
