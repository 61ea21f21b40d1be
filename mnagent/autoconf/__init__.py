"""autoconf"""
