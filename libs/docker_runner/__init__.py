"""docker_runner"""
