"""Other routers' ways to choose, each as a configuration file and, where need be, a plugin file beside it.

The plugin files are named in the configuration under ``pluginPaths``, as a user's own would be: the lab and a live
picker load the very same file.
"""
