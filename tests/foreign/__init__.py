"""Reference writers of foreign formats, which share no module with the readers they judge.

Each `write_NAME(path, scene, **options)` turns a scene of known hands into a file as the source
would have written it, and returns what a perfect reader must find in it (`scene.Written`).
"""
