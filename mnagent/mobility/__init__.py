"""mobility"""
