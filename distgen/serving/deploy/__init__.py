"""The endpoint on a Ray cluster: started, watched, ended. Ray only in `endpoint`, `replica`."""
