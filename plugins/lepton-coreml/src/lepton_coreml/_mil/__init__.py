"""The file format of ML Programs, read and written without coremltools.

``_messages`` holds the protobuf messages, ``_blob`` the file of weights, ``_package`` the folder,
``_program`` what a program is once it is read.
"""
