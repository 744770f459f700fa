"""One plain function a stage; rows in, rows out."""
